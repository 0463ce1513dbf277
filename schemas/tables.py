"""Every ClickHouse table, in one list: `herald tables --apply` makes them, the docs are made from them.

p, o, n are a row's origin: partition and offset of its block in `collected`, and its place in the block. A visitor
lives in one partition, so p is a shard and versions (= o) of one visitor's rows compare.
Read with FINAL where the number must be exact: until ClickHouse merges its parts, a retried row stands there twice.
"""

from schemas.ddl import Column, Table, flag, key_column, label, text, time_ms, whole

P = key_column("p", "UInt16", "partition in `collected`")
O = key_column("o", "UInt64", "offset of the block in `collected`")  # noqa: E741 - the name it has in every query
N = key_column("n", "UInt32", "place in the block")

EVENTS = Table(
    "events",
    "clean events",
    (
        text("event_id", "id the client gave, or made by us"),
        label("event_type", "what happened, one of schemas.event.EventType"),
        time_ms("event_time", "when, by the visitor's clock, corrected"),
        time_ms("received_time", "when we received it"),
        label("site", "site of the write key"),
        text("visitor", "visitor id; empty without consent or id"),
        text("user_id", "known user; empty when anonymous"),
        label("name", "the client's own name for it"),
        label("protocol", "how it reached us"),
        Column("flags", "UInt32", "bits of schemas.event.EventFlag"),
        label("bot_reason", "why it is taken for a machine; empty for a person"),
        text("url", "canonical address of the page"),
        label("host", "host of the page"),
        text("path", "path of the page"),
        text("title", "title of the page"),
        text("referrer", "page it came from"),
        label("referrer_class", "search, social, …"),
        label("utm_source", "campaign tag"),
        label("utm_medium", "campaign tag"),
        label("utm_campaign", "campaign tag"),
        label("utm_term", "campaign tag"),
        label("utm_content", "campaign tag"),
        text("click_id", "ad network's click id"),
        label("click_id_type", "whose click id"),
        label("channel", "marketing channel"),
        label("browser", "browser family"),
        label("os", "operating system family"),
        label("device", "desktop, mobile, tablet, …"),
        label("language", "language of the browser"),
        label("ip", "network of the visitor (/24 or /48)"),
        label("campaign_id", "our campaign"),
        label("creative_id", "our creative"),
        label("placement_id", "place on the page"),
        label("action_id", "what was shown or chosen"),
        text("decision_id", "decision that led to it"),
        label("product_id", "product"),
        label("category", "category of the product or page"),
        label("brand", "brand of the product"),
        whole("quantity", "pieces"),
        whole("price_micros", "price of one piece, micros of currency"),
        whole("revenue_micros", "revenue, micros of currency"),
        whole("cost_micros", "cost, micros of currency"),
        label("currency", "ISO 4217"),
        text("search", "what was searched for"),
        Column("score", "Float64", "satisfaction score or reward"),
        whole("stock_level", "pieces left"),
        text("properties", "JSON object of what has no column"),
        whole("stated_time_ms", "when, as the client's clock had it, uncorrected, ms since 1970; 0 = it did not say"),
        P,
        O,
        N,
    ),
    # Reports ask for a site, a kind and a time, so these lead; (p, o, n) alone is the identity, and the three before it
    # are functions of it, so a retry lands on the same key and in the same month.
    order_by=("site", "event_type", "event_time", "p", "o", "n"),
    partition_by="toYYYYMM(event_time)",
    expires_by="event_time",
    indexes={
        "by_time": "event_time TYPE minmax",  # a minute of all sites and kinds: the rollups' re-read
        "by_block": "(p, o) TYPE minmax",  # one block: the auditor
        "by_visitor": "visitor TYPE bloom_filter(0.01)",  # one person: export and erasure
        "by_decision": "decision_id TYPE bloom_filter(0.01)",
    },
)

BAD = Table(
    "bad",
    "refused events, with the reason",
    (
        label("site", "site of the write key"),
        label("reason", "one of schemas.event.DropReason"),
        time_ms("received_time", "when we received it"),
        text("detail", "what was wrong, where, what was expected"),
        text("event_id", "id the client gave"),
        text("visitor", "visitor id that chose the partition"),
        label("protocol", "how it reached us"),
        label("kind", "endpoint"),
        text("raw", "the beginning of what was sent; all of it is in the topic `bad`"),
        Column("raw_bytes", "UInt32", "length of what was sent, bytes", "T64, ZSTD(1)"),
        P,
        O,
        N,
    ),
    order_by=("site", "reason", "received_time", "p", "o", "n"),
    partition_by="toYYYYMM(received_time)",
    expires_by="received_time",
    indexes={"by_block": "(p, o) TYPE minmax"},
)

SESSIONS = Table(
    "sessions",
    "sessions, the newest state of each",
    (
        text("visitor", "visitor id"),
        time_ms("start", "first event"),
        text("stray_id", "event id of a session that began too late to know its like; else empty"),
        time_ms("end", "last event so far"),
        label("site", "site of the first event"),
        text("landing", "path of the first page"),
        text("exit", "path of the last page"),
        label("channel", "marketing channel that it came by"),
        label("source", "utm_source that it came by"),
        label("medium", "utm_medium that it came by"),
        label("campaign", "utm_campaign that it came by"),
        label("device", "desktop, mobile, tablet, …"),
        whole("events", "events"),
        whole("pages", "pages and screens"),
        whole("impressions", "impressions"),
        whole("clicks", "clicks"),
        whole("conversions", "conversions"),
        whole("purchases", "purchases"),
        whole("revenue_micros", "revenue, micros"),
        whole("late_events", "events that came after it was closed"),
        flag("is_bot", "1 where a machine did it"),
        flag("is_closed", "1 where no more events are expected"),
        P,
        O,
        flag("is_deleted", "1 where it was merged into an earlier session"),
    ),
    order_by=("visitor", "start", "stray_id"),  # a session's name, as schemas.session has it
    partition_by="toYYYYMM(start)",
    expires_by="start",
    version="o",
    deleted="is_deleted",
    indexes={"by_time": "start TYPE minmax", "by_block": "(p, o) TYPE minmax"},
)

OUTCOMES = Table(
    "outcomes",
    "decisions joined to what followed, the newest state of each decision and action",
    (
        text("decision_id", "decision; begins with its time, so the key is in order of time"),
        label("action_id", "action that was chosen"),
        time_ms("decided", "when it was decided; never changes"),
        label("site", "site"),
        label("placement_id", "place on the page"),
        label("campaign_id", "campaign of the action"),
        label("creative_id", "creative of the action"),
        text("visitor", "visitor id"),
        time_ms("impressed", "when it was seen; 1970 = not yet"),
        time_ms("clicked", "when it was clicked; 1970 = not yet"),
        whole("conversions", "conversions after the click"),
        whole("revenue_micros", "revenue after the click, micros"),
        whole("reward_micros", "reward that the learner was told, millionths"),
        Column("propensity", "Float64", "exact probability that the action was chosen with"),
        label("policy", "policy that chose"),
        label("model_version", "model that it used"),
        flag("is_bot", "1 where a machine did it: neither learned nor billed"),
        P,
        O,
    ),
    order_by=("decision_id", "action_id", "decided"),
    partition_by="toYYYYMM(decided)",
    expires_by="decided",
    version="o",
    indexes={"by_time": "decided TYPE minmax", "by_block": "(p, o) TYPE minmax"},
)

DECISIONS = Table(
    "decisions",
    "why each decision was made: enough to explain and to replay it",
    (
        text("decision_id", "decision"),
        time_ms("decided", "when"),
        label("site", "site"),
        text("visitor", "visitor id; empty without consent or id"),
        label("placement_id", "place on the page"),
        label("policy", "policy that chose"),
        label("model_version", "model that it used"),
        text("seed", "seed of its random choice"),
        text("choices", "JSON: actions chosen, each with rank, exact probability, campaign and creative"),
        Column("candidates", "Array(String)", "actions that could have been chosen", "ZSTD(1)"),
        Column("propensities", "Array(Float64)", "exact probability of each candidate", "ZSTD(1)"),
        text("excluded", "JSON object: action -> why it was no candidate"),
        text("context", "JSON object: what was known of the visitor and the request"),
        text("features", "JSON object: action -> its features"),
        Column("degraded", "Array(LowCardinality(String))", "what was missing when it was made"),
        P,
        O,
    ),
    order_by=("decision_id", "decided"),
    partition_by="toYYYYMM(decided)",
    expires_by="decided",
    version="o",
    indexes={"by_block": "(p, o) TYPE minmax"},
)

BLOCKS = Table(
    "blocks",
    "which blocks have been applied: written last, so a block that stands here is wholly in the other tables",
    (
        label("topic", "topic it was read from"),
        P,
        O,
        Column("rows", "UInt32", "rows in the block", "T64, ZSTD(1)"),
        Column("checksum", "UInt32", "crc32 of the record, as in its header", "ZSTD(1)"),
        Column("gen", "UInt32", "how often the auditor has sent it again", "ZSTD(1)"),
        time_ms("block_time", "when the collector closed the block"),
        time_ms("applied_time", "when it was applied, by the writer's clock; a repeat has another one"),
        key_column("received", "UInt64", "topic `events` only: events received in all blocks of p up to this one"),
        key_column("clean", "UInt64", "… stored as clean"),
        key_column("refused", "UInt64", "… refused"),
        key_column("duplicate", "UInt64", "… seen before"),
    ),
    order_by=("topic", "p", "o"),
    # Not block_time: a collector whose clock is a year behind would have its blocks forgotten, and applied for ever.
    expires_by="applied_time",
    version="gen",
)

SEALS = Table(
    "seals",
    "what the auditor has found equal to the log, summed up by slices of 256 blocks; later looks compare with these",
    (
        label("sealed", "table that was compared; `blocks:TOPIC` is the ledger of a topic, rows there are blocks"),
        P,
        key_column("slice", "UInt64", "offset of the block / 256"),
        key_column("day", "UInt32", "day of the time that rows expire by, since 1970: expired days stay countable"),
        Column("rows", "UInt64", "rows", "T64, ZSTD(1)"),
        Column("hash", "UInt64", "sum of the rows' cityHash64 over all columns"),
        Column("shape", "UInt32", "crc32 of the columns hashed: with other columns the seal says nothing", "ZSTD(1)"),
        flag("from_log", "1 where the log was read; 0 where it had forgotten and the table's own rows were taken"),
        time_ms("sealed_time", "when, by the auditor's clock"),
    ),
    order_by=("sealed", "p", "slice", "day"),
    # Never: what has expired is counted from here, and the books' totals go back to the beginning.
    expires_by="",
    version="sealed_time",
)

ROLLUP_MINUTE = Table(
    "rollup_minute",
    "counts by minute of event time, one row a cell and partition: add them up over p",
    (
        label("site", "site"),
        label("kind", "what `first` and `second` are, one of pipeline.core.rollup.KINDS"),
        Column("minute", "DateTime('UTC')", "minute of event time", "Delta, ZSTD(1)"),
        label("first", "first dimension"),
        label("second", "second dimension"),
        flag("is_bot", "1 where machines did it"),
        label("currency", "of the money in this row; counts are all in the row with none"),
        P,
        whole("events", "events"),
        whole("visitors", "different visitors in this minute; adds up over p, not over minutes"),
        whole("pages", "pages and screens"),
        whole("decisions", "decisions"),
        whole("impressions", "impressions"),
        whole("clicks", "clicks"),
        whole("conversions", "conversions"),
        whole("purchases", "purchases"),
        whole("revenue_micros", "revenue, micros of currency"),
        whole("cost_micros", "cost, micros of currency"),
        O,
    ),
    order_by=("site", "kind", "minute", "first", "second", "is_bot", "currency", "p"),
    partition_by="toYYYYMM(minute)",
    expires_by="minute",
    version="o",
)

TABLES: tuple[Table, ...] = (EVENTS, BAD, SESSIONS, OUTCOMES, DECISIONS, BLOCKS, SEALS, ROLLUP_MINUTE)
