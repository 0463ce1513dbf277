"""Delivery's pen: decisions, rewards, impressions and clicks into `collected`, and the memory of recent decisions.

A decision is never held up by its record: it goes to the spool and to the block writer, and leaves with the next block.
"""

import asyncio
import hashlib
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.collector.buffer import BlockWriter, Ticket
from pipeline.core.decide import partition_of
from pipeline.core.mask import mask
from pipeline.delivery.spool import Entry, Spool
from pipeline.edge import metrics
from schemas.event import Context, EventType, Protocol
from schemas.outcome import DecisionLog

logger = logging.getLogger(__name__)

RECENT_BYTES_MAX: Final = 33_554_432
RECENT_ENTRY_BYTES: Final = 400  # key and bookkeeping of one remembered decision
LOG_BYTES_MAX: Final = 131_072
LOG_KEYS_MAX: Final = 10_000
"""Keys of one decision's log, excluded actions and features: beyond it features stay out, and the log says so."""

_encode = msgspec.json.Encoder().encode
_decode_log = msgspec.json.Decoder(DecisionLog).decode


@dataclass(frozen=True, slots=True)
class Sender:
    """Where a request came from, as far as the log may know it. ip is cut; user_agent is a browser's own, or ""."""

    site: str
    ip: str = ""
    user_agent: str = ""
    no_consent: bool = False


@dataclass(frozen=True, slots=True)
class News:
    """What became of a decision: an impression, a click or a reward. event_id: the same news again has the same id."""

    kind: EventType
    decision_id: str
    event_id: str
    action_id: str = ""
    placement_id: str = ""
    campaign_id: str = ""
    creative_id: str = ""
    reward: float | None = None


def news_id(decision_id: str, action_id: str, kind: EventType, *more: str) -> str:
    """Return the event id of news: whoever tells the same of a decision, by whichever way, tells it once."""
    said = ":".join((decision_id, action_id, kind.value, *more))
    return hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=16).hexdigest()


class Remembered(msgspec.Struct, gc=False):
    """A recent decision: whose it was, under which site, and its log as JSON."""

    visitor: str
    site: str
    raw: bytes

    def log(self) -> DecisionLog:
        """Return the log."""
        return _decode_log(self.raw)


class Pen:
    """Writes into `collected` through a BlockWriter. Belongs to the event loop's thread."""

    def __init__(
        self, writer: BlockWriter, partitions: int, recent_max: int, mask_key: bytes, spool: Spool | None = None
    ) -> None:
        """recent_max: decisions remembered, within RECENT_BYTES_MAX. mask_key: of e-mail pseudonyms.

        spool: where records stand until the broker has them; None: in memory alone.
        """
        self._writer = writer
        self._spool = spool
        self._partitions = partitions
        self._recent_max = recent_max
        self._mask_key = mask_key
        self._recent: OrderedDict[str, Remembered] = OrderedDict()
        self._recent_bytes = 0
        self._context: Context | None = None

    @property
    def is_available(self) -> bool:
        """True while the broker was reached and there is room."""
        return self._writer.is_available

    def recent(self, decision_id: str) -> Remembered | None:
        """Return a decision that this process made not long ago, or None."""
        return self._recent.get(decision_id)

    def decision(self, log: DecisionLog, visitor: str, sender: Sender, time_ms: int) -> bool:
        """Log a decision without waiting; return False (and count it) where there was no room for its record.

        log: changed where it has to be: secrets in context and features are masked, features left out where the record
        would be too complex (`degraded` then says "features_unlogged"). visitor: "" without consent or id.
        """
        self._clean_texts(log)
        raw = _encode(log)
        if len(raw) > LOG_BYTES_MAX and log.features:
            _without_features(log)
            raw = _encode(log)
        self.remember(log.decision_id, Remembered(visitor, sender.site, raw))
        first = log.choices[0] if log.choices else None
        event = {
            "type": EventType.DECISION.value,
            "event_time_ms": time_ms,
            "decision_id": log.decision_id,
            "placement_id": log.placement_id,
            "action_id": first.action_id if first else "",
            "campaign_id": first.campaign_id if first else "",
            "creative_id": first.creative_id if first else "",
            "properties": msgspec.Raw(raw),
        }
        written = _encode(event)
        if not self._writer.has_room(len(written)):
            metrics.DECISIONS_UNLOGGED.inc()
            return False
        context = self._context_of("decision", sender, time_ms)
        self._write(Entry(log.decision_id, context, log.decision_id, visitor, written))
        return True

    async def news(self, news: News, sender: Sender, time_ms: int, wait_s: float) -> bool:
        """Log what became of a decision; return whether the broker had it within wait_s.

        False does not mean lost, but where there is no room: the block goes on trying, and the same event_id counts
        once. While no broker is to be had, nothing is waited for.
        """
        event: dict[str, object] = {
            "type": news.kind.value,
            "event_time_ms": time_ms,
            "decision_id": news.decision_id,
            "placement_id": news.placement_id,
            "action_id": news.action_id,
            "campaign_id": news.campaign_id,
            "creative_id": news.creative_id,
        }
        if news.reward is not None:
            event["reward"] = news.reward
        if sender.user_agent:
            event["user_agent"] = msgspec.Raw(mask(_encode(sender.user_agent), self._mask_key))
        raw = _encode(event)
        known = self._recent.get(news.decision_id)
        visitor = known.visitor if known is not None and not sender.no_consent else ""
        context = self._context_of(news.kind.value, sender, time_ms)
        if not self._writer.has_room(len(raw)):
            return False
        ticket = self._write(Entry(news.decision_id, context, news.event_id, visitor, raw))
        if not self._writer.is_available:
            return False
        try:
            async with asyncio.timeout(wait_s):
                return await self._writer.landed({ticket})
        except TimeoutError:
            return False

    def _write(self, entry: Entry) -> Ticket:
        """Put a record into its block, and before that into the file that outlives us."""
        landed = self._spool.keep(entry) if self._spool is not None else None
        ticket = self._add(entry)
        if landed is not None:
            self._writer.when_landed({ticket}, landed)
        return ticket

    def _add(self, entry: Entry) -> Ticket:
        partition = partition_of(entry.key, self._partitions)
        return self._writer.add(partition, entry.context, entry.event_id, entry.visitor, entry.raw)

    def resend(self, now_ms: int, age_max_ms: int) -> None:
        """Send again what a dead process left behind.

        age_max_ms: what is older stays unsent and is counted: its id may be forgotten, and it would count twice.
        """
        results: Counter[str] = Counter()
        for entry, landed in self._spool.left_behind() if self._spool is not None else ():
            if now_ms - entry.context.received_time_ms > age_max_ms:
                results["too_old"] += 1
                landed(True)
            elif not self._writer.has_room(len(entry.raw)):
                results["no_room"] += 1  # its file stays for the next start
            else:
                results["sent"] += 1
                self._writer.when_landed({self._add(entry)}, landed)
        for result, many in results.items():
            metrics.RECORDS_RESENT.labels(result).inc(many)
        if results:
            text = "a delivery that died left %d records: %s"
            logger.warning(text, results.total(), ", ".join(f"{many} {result}" for result, many in results.items()))

    def _context_of(self, kind: str, sender: Sender, time_ms: int) -> Context:
        """Return the context of an event: the last one again where it says the same, so that a block holds it once."""
        fresh = Context(Protocol.HERALD, kind, sender.site, time_ms, 0, sender.ip, "", "", sender.no_consent)
        if self._context != fresh:
            self._context = fresh
        assert self._context is not None
        return self._context

    def _clean_texts(self, log: DecisionLog) -> None:
        if _keys(log) > LOG_KEYS_MAX:
            _without_features(log)
        if log.context or log.features:
            raw = _encode((log.context, log.features))
            masked = mask(raw, self._mask_key)
            if masked is not raw:
                log.context, log.features = msgspec.json.decode(
                    masked, type=tuple[dict[str, object], dict[str, dict[str, object]]]
                )

    def remember(self, decision_id: str, one: Remembered) -> None:
        """Have a recent decision explained and rewarded here: one of ours, or of another process that we have asked."""
        self._recent[decision_id] = one
        self._recent_bytes += len(one.raw) + RECENT_ENTRY_BYTES
        while len(self._recent) > self._recent_max or self._recent_bytes > RECENT_BYTES_MAX:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= len(oldest.raw) + RECENT_ENTRY_BYTES


def _keys(log: DecisionLog) -> int:
    """About how many object keys the record will have."""
    return 20 + len(log.excluded) + len(log.context) + sum(len(found) + 1 for found in log.features.values())


def _without_features(log: DecisionLog) -> None:
    if log.features:
        log.features = {}
        log.degraded.append("features_unlogged")
    if _keys(log) > LOG_KEYS_MAX:
        kept = list(log.excluded.items())[: LOG_KEYS_MAX // 2]
        log.excluded = {**dict(kept), "…": f"{len(log.excluded) - len(kept)} more"}
