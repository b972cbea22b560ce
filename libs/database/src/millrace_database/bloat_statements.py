"""The SQL statements that measure tables and their indexes. They read Postgres's catalogues and statistics, never the rows."""

# $1 the names of the tables. How wide rows are is known of those columns that were analyzed; `is_known`: of all of them.
#
# The functions are those of pg_stat_all_tables, which goes through all tables of the database whatever it is asked for.
MEASURE_TABLES = """
SELECT class.relname::text AS name, class.reltuples::float8 AS sampled_rows,
    pg_stat_get_live_tuples(class.oid) AS live_rows, pg_stat_get_dead_tuples(class.oid) AS dead_rows,
    pg_stat_get_mod_since_analyze(class.oid) AS changes, pg_relation_size(class.oid) AS bytes,
    coalesce((
        SELECT option_value::integer FROM pg_options_to_table(class.reloptions) WHERE option_name = 'fillfactor'
    ), 100) AS fill_factor,
    shape.width AS data_width, shape.columns, shape.is_known,
    greatest(pg_stat_get_last_vacuum_time(class.oid), pg_stat_get_last_autovacuum_time(class.oid)) AS last_vacuum_at,
    greatest(pg_stat_get_last_analyze_time(class.oid), pg_stat_get_last_autoanalyze_time(class.oid)) AS last_analyze_at,
    greatest(age(class.relfrozenxid), age(toast.relfrozenxid))::bigint AS unfrozen_age
FROM unnest($1::text[]) AS wanted (name)
JOIN pg_class AS class ON class.oid = to_regclass(quote_ident(wanted.name))
JOIN pg_namespace AS space ON space.oid = class.relnamespace
LEFT JOIN pg_class AS toast ON toast.oid = class.reltoastrelid
CROSS JOIN LATERAL (
    SELECT count(*) AS columns, coalesce(sum((1 - found.null_frac) * found.avg_width), 0)::float8 AS width,
        count(*) = count(found.avg_width) AS is_known
    FROM pg_attribute AS attribute LEFT JOIN pg_stats AS found
        ON found.schemaname = space.nspname AND found.tablename = class.relname
            AND found.attname = attribute.attname AND NOT found.inherited
    WHERE attribute.attrelid = class.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
) AS shape
ORDER BY class.relname
"""

# $1 the names of the tables. An expression of an index has statistics under the name of the index. A NULL takes no room, but
# what is in a partial index is seldom as often NULL as it is in the table: each key is taken for full.
#
# One that is being built is not valid yet; it is not told of while something is built on its table.
MEASURE_INDEXES = """
SELECT index.relname::text AS name, class.relname::text AS table, index.reltuples::float8 AS sampled_rows,
    definition.indpred IS NOT NULL AS is_partial, pg_relation_size(index.oid) AS bytes,
    coalesce((
        SELECT option_value::integer FROM pg_options_to_table(index.reloptions) WHERE option_name = 'fillfactor'
    ), 90) AS fill_factor,
    definition.indisvalid OR EXISTS (
        SELECT FROM pg_stat_progress_create_index AS building WHERE building.relid = class.oid
    ) AS is_valid,
    method.amname = 'btree' AND shape.is_known AS is_known, shape.width AS data_width
FROM unnest($1::text[]) AS wanted (name)
JOIN pg_class AS class ON class.oid = to_regclass(quote_ident(wanted.name))
JOIN pg_namespace AS space ON space.oid = class.relnamespace
JOIN pg_index AS definition ON definition.indrelid = class.oid
JOIN pg_class AS index ON index.oid = definition.indexrelid
JOIN pg_am AS method ON method.oid = index.relam
CROSS JOIN LATERAL (
    SELECT coalesce(sum(coalesce(of_column.avg_width, of_expression.avg_width, nullif(key.attlen, -1))), 0)::float8 AS width,
        count(*) = count(coalesce(of_column.avg_width, of_expression.avg_width, nullif(key.attlen, -1))) AS is_known
    FROM pg_attribute AS key
    LEFT JOIN pg_attribute AS "column"
        ON "column".attrelid = class.oid AND "column".attnum = definition.indkey[key.attnum - 1] AND "column".attnum > 0
    LEFT JOIN pg_stats AS of_column
        ON of_column.schemaname = space.nspname AND of_column.tablename = class.relname
            AND of_column.attname = "column".attname AND NOT of_column.inherited
    LEFT JOIN pg_stats AS of_expression
        ON of_expression.schemaname = space.nspname AND of_expression.tablename = index.relname
            AND of_expression.attname = key.attname AND NOT of_expression.inherited
    WHERE key.attrelid = index.oid
) AS shape
ORDER BY class.relname, index.relname
"""

SERVER = """
SELECT current_setting('block_size')::integer AS page_bytes,
    current_setting('autovacuum_freeze_max_age')::bigint AS freeze_age, now() AS now
"""
