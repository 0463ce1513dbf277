"""The jars of Apache Kafka, fetched once from the Maven repository into the user's cache.

Place in the flow: `pipeline.embedded.kafka` asks for the jars before it starts a broker; nobody else does.

The folder `kafka-VERSION` in the cache appears by one rename, after every jar was downloaded, compared with the
digest pinned below and flushed to the disk. So whoever sees the folder sees all of it; a download that was cut short
leaves a `.partial` folder, which nobody reads and the next download removes. A file lock lets one process download
while the others wait. The folder can be copied to a machine that has no network.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import ParseError

from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import Artifact, MavenContext, PythonResolver
from jgo.parse import Coordinate

from pipeline.errors import EmbeddedError

Report = Callable[[str], None]

MANIFEST = "MANIFEST"
"""File beside the jars: one line `BYTES NAME` for each. It is what tells a folder that was copied only in part."""


@dataclass(frozen=True)
class KafkaRelease:
    """One release of Kafka, as the Maven repository has it.

    coordinate: `group:artifact:version`, resolved with all it depends on.
    extra: coordinates taken without their dependencies. Kafka logs through slf4j and names no logger behind it; and
        the logger's own list of versions, followed, would swap Kafka's client for an older one.
    jars_sha256: digest of the whole set, see `digest_of`; an empty text accepts any set.
    """

    version: str
    coordinate: str
    extra: tuple[str, ...]
    jars_sha256: str


KAFKA = KafkaRelease(
    version="4.1.1",
    coordinate="org.apache.kafka:kafka_2.13:4.1.1",
    extra=("org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",),
    jars_sha256="bdbf49c0b2b8f4289e5537a884f0f232a0a6937b9720e7583219164592d3f255",
)


def user_cache_dir() -> Path:
    """Herald's folder in the user's cache: below XDG_CACHE_HOME if that is an absolute path, else below ~/.cache."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "herald"


def kafka_jars(cache_dir: Path | None, report: Report, release: KafkaRelease = KAFKA) -> list[Path]:
    """Give the jars to put on Java's class path, downloading them if the cache has no whole set.

    cache_dir: folder that holds `kafka-VERSION`; None means `user_cache_dir()`.
    report: told about a download (about 43 MB, 20 seconds) as it goes on.
    Returns the paths, sorted, so that every start has the same class path.
    Raises EmbeddedError if the download fails or brings something else than was published.
    """
    folder = (cache_dir or user_cache_dir()) / f"kafka-{release.version}"
    # Looked at before the lock is taken: a cache baked into a read-only image needs no lock file.
    if jars := whole_set(folder):
        return jars
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder, report):
            return whole_set(folder) or _install(folder, report, release)
    except (RuntimeError, OSError, ValueError, ParseError, AssertionError) as error:
        # jgo has no exception of its own: a missing artifact is a RuntimeError or ValueError, an error page that
        # came in place of a POM is a ParseError, its own checks are assertions; an HTTP failure is an OSError.
        raise EmbeddedError(_download_failed(folder, release, error)) from error


def whole_set(folder: Path) -> list[Path]:
    """Give the folder's jars if all that its manifest names are there in full size, else nothing."""
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
        wanted = [(folder / name, int(size)) for size, name in (line.split(" ", 1) for line in lines)]
        whole = all(path.stat().st_size == size for path, size in wanted)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return []
    return sorted(path for path, _ in wanted) if whole else []


def digest_of(jars: list[Path]) -> str:
    """SHA-256, in hex, over the sorted lines `SHA256 NAME` of the jars: one text that pins them all."""
    lines = sorted(f"{hashlib.sha256(jar.read_bytes()).hexdigest()} {jar.name}\n" for jar in jars)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def _alone(folder: Path, report: Report) -> Iterator[None]:
    """Hold the download's lock; it goes with the process, so a killed download blocks nobody."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process is downloading Kafka into {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(folder: Path, report: Report, release: KafkaRelease) -> list[Path]:
    """Download into a folder of another name, check, flush, and rename. The caller holds the lock."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "jars").mkdir(parents=True)
    try:
        for artifact in _resolve(partial / "maven", report, release):
            shutil.move(artifact.resolve(), partial / "jars")
        _check_and_seal(partial / "jars", release)
        shutil.rmtree(folder, ignore_errors=True)  # what is there is not whole, or we would not be here
        (partial / "jars").rename(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    report(f"Kafka {release.version} is in {folder}")
    return whole_set(folder)


def _resolve(repository: Path, report: Report, release: KafkaRelease) -> Iterator[Artifact]:
    """Name every jar of the release, telling the progress; the jars themselves are downloaded as they are asked for.

    repository: an empty folder. The user's own Maven repository is not used: jgo takes any file it finds there for
    a good one, half a file too.
    """
    report(f"downloading Apache Kafka {release.version}, once (about 43 MB)")
    remotes = {"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories}  # a company's mirror may be named
    context = MavenContext(resolver=PythonResolver(), repo_cache=repository, local_repos=[], remote_repos=remotes)
    main, *extra = (
        context.create_dependency(replace(Coordinate.parse(text), scope="compile"))
        for text in (release.coordinate, *release.extra)
    )
    inputs, transitive = context.resolver.resolve([main])
    needed = [*inputs, *(found for found in transitive if found.scope in ("compile", "runtime")), *extra]
    for number, dependency in enumerate(needed, start=1):
        if number % 10 == 0 or number == len(needed):
            report(f"downloading Kafka: file {number} of {len(needed)}")
        yield dependency.artifact


def _check_and_seal(folder: Path, release: KafkaRelease) -> None:
    """Compare the jars with the pinned digest, write the manifest, and flush all of it to the disk."""
    jars = sorted(folder.glob("*.jar"))
    found = digest_of(jars)
    if release.jars_sha256 and found != release.jars_sha256:
        raise ValueError(
            f"the {len(jars)} downloaded jars have the digest {found}, expected {release.jars_sha256}: "
            "damaged on the way, or the repository serves something else"
        )
    manifest = folder / MANIFEST
    manifest.write_text("".join(f"{jar.stat().st_size} {jar.name}\n" for jar in jars), encoding="utf-8")
    # Without this a power cut soon after the rename could leave files of the right size, full of zeros.
    for path in (*jars, manifest, folder):
        _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _download_failed(folder: Path, release: KafkaRelease, error: Exception) -> str:
    return (
        f"Apache Kafka {release.version} could not be downloaded into {folder}: {type(error).__name__}: {error}. "
        f"Check the network (and HTTPS_PROXY), or copy the folder {folder} from a machine that has it; "
        "nothing of the failed download was kept. With HERALD_KAFKA_BOOTSTRAP_SERVERS set, a Kafka that already runs "
        "is used and none is downloaded."
    )
