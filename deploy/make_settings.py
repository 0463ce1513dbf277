"""Makes deploy/settings.full.env from the settings: `python deploy/make_settings.py`.

Every setting with its default, under its meaning, so that a file to start from cannot fall behind the code.
"""

from pathlib import Path

from pipeline.settings import Settings, as_text

FILE = Path(__file__).parent / "settings.full.env"

HEAD = """\
# Every setting with its default. Made by deploy/make_settings.py: defaults are changed in pipeline/settings.py.
# Copy what you need; what is left out keeps its default. Unknown HERALD_ names stop the start.
"""

DEPENDS_ON_THE_HOME = {"data_dir": "~/.local/share/herald"}


def text() -> str:
    """Return the file's text. A default that depends on who runs it stands as a comment."""
    blocks = [HEAD]
    for name, info in Settings.model_fields.items():
        meaning = f"# {info.description}\n" if info.description else ""
        line = f"HERALD_{name.upper()}="
        if name in DEPENDS_ON_THE_HOME:
            blocks.append(f"{meaning}# {line}{DEPENDS_ON_THE_HOME[name]}\n")
        else:
            blocks.append(f"{meaning}{line}{as_text(info.get_default(call_default_factory=True))}\n")
    return "\n".join(blocks)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
