// Statements that read: plainly, under a tenant that they set themselves, or through what runs a text of theirs.
import { condition, type Words } from "./words.ts";

function output(words: Words, table: string): string {
  return words.pick([
    "*",
    "t.*",
    "t::text",
    "to_jsonb(t)",
    "row_to_json(t)",
    `xmlforest(t.${words.column(table)} as x)`,
    "count(*) over (), *",
    "lag(t::text) over (order by t.tenant_id)",
    "t.tableoid::regclass, t.xmin, t.ctid",
    "format('%s', t)",
  ]);
}

function aggregate(words: Words, table: string): string {
  return words.pick([
    "count(*)",
    "string_agg(t::text, ',')",
    "jsonb_agg(t)",
    `array_agg(t.${words.column(table)})`,
    "xmlagg(xmlelement(name x, t::text))",
    "json_object_agg(t.tenant_id, t)",
    `min(t.tenant_id::text), max(t.${words.column(table)}::text)`,
    "count(distinct t.tenant_id)",
  ]);
}

/** Reads a table or a join, with a condition that may raise. */
export function select(words: Words): string {
  const [table, other] = [words.table(), words.table()];
  const on = condition(words, "o", other);
  const from = words.pick([
    `${table} as t`,
    `only ${table} as t`,
    `${table} as t tablesample system (100)`,
    `${table} as t ${words.pick(["left", "full", "right", "inner"])} join ${other} as o on ${on}`,
    `${table} as t cross join lateral (select * from ${other} as o where ${on}) as o`,
    `(select * from ${table} offset 0) as t`,
  ]);
  const what = words.chance(0.3) ? aggregate(words, table) : output(words, table);
  const where = words.chance(0.7) ? ` where ${condition(words, "t", table)}` : "";
  return `select ${what} from ${from}${where} limit 50`;
}

/** Reads and sets, in one statement, who one would like to be. */
export function spoof(words: Words): string {
  const table = words.table();
  const set = `set_config('${words.setting()}', ${words.settingValue()}, ${words.pick(["true", "false"])})`;
  return words.pick([
    `with s as materialized (select ${set} as v)
     select t.* from s cross join lateral (select * from ${table} as x where s.v is not null) as t`,
    `select ${set}, (select count(*) from ${table})`,
    `select (select jsonb_agg(t) from ${table} as t), ${set}`,
    `select * from ${table} where ${set} is not null`,
    `select * from ${table} where tenant_id = '@{theirs}' or ${set} is null`,
  ]);
}

/** Reads by COPY, which row security answers in another way. */
export function copy(words: Words): string {
  const table = words.table();
  return words.pick([
    `copy (${select(words)}) to stdout`,
    `copy ${table} to stdout`,
    `copy (select ${aggregate(words, table)} from ${table} as t) to stdout (format csv)`,
    `copy ${table} from stdin`,
    `copy ${table} to program 'cat'`,
  ]);
}

/** Reads through functions that run a text, and asks PostgreSQL what it knows of everybody. */
export function indirect(words: Words): string {
  const table = words.table();
  const quoted = select(words).replaceAll("'", "''");
  const explain = words.pick([
    ...["explain", "explain verbose", "explain (format json)"],
    "explain (analyze, timing off, summary off)",
  ]);
  return words.pick([
    `select query_to_xml('${quoted}', true, true, '')`,
    `select query_to_xml_and_xmlschema('${quoted}', true, false, '')`,
    `select table_to_xml('${table}', true, true, '')`,
    "select schema_to_xml('tenant', true, true, '')",
    `select * from ts_stat('select to_tsvector(${words.column(table)}::text) from ${table}')`,
    `${explain} ${select(words)}`,
    `${explain} ${select(words)}`,
    "select * from pg_stats where schemaname = 'app'",
    "select pg_get_viewdef(oid) from pg_class where relname like '%current'",
    "select * from pg_stat_activity",
    "select * from pg_locks",
    "select lo_get(lo_from_bytea(0, '\\x00'))",
    `select pg_notify('loot', (select jsonb_agg(t)::text from ${table} as t))`,
    "listen loot",
    "select pg_read_file('postgresql.conf')",
    "select nextval('graphile_worker.jobs_id_seq1')",
    `select generate_series(1, 3), * from ${table} limit 9`,
    `select * from ${table} as t, jsonb_each_text(to_jsonb(t)) limit 40`,
    "select pg_terminate_backend(pg_backend_pid())",
  ]);
}
