"""The engine's server settings for a small machine: its defaults are for a server of many cores."""

from pathlib import Path


def write_engine_config(path: Path, memory_mb_max: int, threads: int, fsync: bool) -> Path:
    """Write them in ClickHouse's XML and return path.

    memory_mb_max: of the whole engine, MB. threads: of background merges. fsync: sync each insert before its answer.
    """
    memory_bytes = memory_mb_max * 1_000_000
    server = {
        "max_server_memory_usage": memory_bytes,
        "mark_cache_size": memory_bytes // 32,
        "index_mark_cache_size": memory_bytes // 128,
        "primary_index_cache_size": memory_bytes // 32,
        "uncompressed_cache_size": 0,
        "mmap_cache_size": 0,
        "compiled_expression_cache_size": 8 << 20,
        "background_pool_size": threads,
        "background_schedule_pool_size": 4,
        "background_common_pool_size": 2,
        "background_fetches_pool_size": 1,
        "background_move_pool_size": 1,
        "tables_loader_background_pool_size": 1,
        "tables_loader_foreground_pool_size": 1,
        "max_thread_pool_size": 1000,
        "max_thread_pool_free_size": 8,
    }
    merge_tree = {
        # Each must be no more than the background pool's slots, or no merge would ever be chosen.
        "number_of_free_entries_in_pool_to_lower_max_size_of_merge": 1,
        "number_of_free_entries_in_pool_to_execute_mutation": 1,
        "number_of_free_entries_in_pool_to_execute_optimize_entire_partition": 1,
        "fsync_after_insert": int(fsync),
        "fsync_part_directory": int(fsync),
    }
    text = f"<clickhouse>{_elements(server)}<merge_tree>{_elements(merge_tree)}</merge_tree></clickhouse>\n"
    path.write_text(text, encoding="utf-8")
    return path


def _elements(values: dict[str, int]) -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
