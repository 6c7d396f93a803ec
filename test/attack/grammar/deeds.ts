// Statements that do: settings and roles, calls of our functions, writes, what outlives a statement, transactions.
import { select } from "./reads.ts";
import { condition, type OurFunction, type Words } from "./words.ts";

const ROLES = [
  "holdfast_tenant",
  "holdfast_service",
  "holdfast_owner",
  "holdfast_system",
  "holdfast_worker",
  "none",
];

/** Becomes somebody, or changes what the session is. */
export function set(words: Words): string {
  const local = words.pick(["local ", ""]);
  return words.pick([
    `set ${local}role ${words.pick(ROLES)}`,
    `set ${local}session authorization ${words.pick(["holdfast_worker", "holdfast_owner", "default"])}`,
    "reset role",
    "reset all",
    "reset session authorization",
    `reset ${words.pick(["app.tenant", "row_security", "search_path"])}`,
    `set ${local}row_security = ${words.pick(["on", "off"])}`,
    `set ${local}app.tenant = '@{theirs}'`,
    `set ${local}search_path = tenant, app, app_private, ops, pg_temp`,
    `select set_config('${words.setting()}', ${words.settingValue()}, ${words.pick(["true", "false"])})`,
    `select current_setting('${words.setting()}', true), current_user, session_user`,
    "set local plan_cache_mode = force_generic_plan",
    "discard plans",
    "discard all",
  ]);
}

const TEXTS = ["'ownrow request'", "'offline'", "'offline-analyst'", "''", "'@{theirs}'", "null", "'open'"];
const RESULTS = ["'{}'", `'{"narrated_by": "template", "fallback_reason": "x", "items": []}'`, "'[]'"];

function argument(words: Words, [name, type]: OurFunction["args"][number]): string {
  if (name === "tenant_id") return `'${words.tenant()}'`;
  if (name === "ticket") return `'${words.ticket()}'`;
  if (type === "uuid") return `'${words.id(name)}'`;
  if (type === "uuid[]") return `array['${words.id(name)}', '${words.id(name)}']::uuid[]`;
  if (type === "text") return words.pick(TEXTS);
  if (type === "text[]") return words.pick(["'{}'", "array['(2,,,)']", "null"]);
  if (type === "jsonb") return words.pick(RESULTS);
  if (type === "boolean") return words.pick(["true", "false"]);
  if (type === "interval") return words.pick(["'1 minute'", "'-1 day'"]);
  if (type === "regclass") return `'${words.table()}'`;
  const value = words.pick(["0", "1", "10", "-1", "null"]);
  return /int|numeric/.test(type) ? `${value}::${type}` : value;
}

/** Calls a function of ours with arguments that do or do not belong together. */
export function call(words: Words): string {
  const { functions } = words.vocabulary;
  const contract = functions.filter(({ name }) => name.startsWith("app."));
  const { name, args } = words.pick(words.chance(0.85) ? contract : functions);
  return `select * from ${name}(${args.map((each) => argument(words, each)).join(", ")})`;
}

/** Writes, locks, or makes what would let it read. */
export function write(words: Words): string {
  const table = words.table();
  const [column, key] = [words.column(table), words.column(table, /uuid/)];
  return words.pick([
    `update ${table} set ${column} = ${column} where tenant_id = '${words.tenant()}' returning *`,
    `delete from ${table} as t where ${condition(words, "t", table)} returning *`,
    `insert into ${table} (tenant_id, ${key}) values ('${words.tenant()}', '${words.id()}')
     on conflict do nothing returning *`,
    `insert into ${table} select * from ${table} on conflict do nothing`,
    `merge into ${table} as t using (select '@{theirs}'::uuid as i) as s on t.tenant_id = s.i
     when matched then delete`,
    `truncate ${table}`,
    `lock table ${table} in access share mode`,
    `select * from ${table} for ${words.pick(["update", "key share"])} skip locked`,
    `alter table ${table} disable row level security`,
    `create policy hole on ${table} using (true)`,
    `create temp table loot as select * from ${table}`,
    `create view pg_temp.loot as select * from ${table}`,
    `grant select on ${table} to public`,
    `comment on table ${table} is 'x'`,
    `do $$ begin perform set_config('app.tenant', '@{theirs}', true); perform * from ${table}; end $$`,
    `create function pg_temp.peek() returns setof ${table} language sql as 'select * from ${table}'`,
  ]);
}

/** Keeps a cursor or a plan for later, and comes back to it. */
export function hold(words: Words): string {
  const scroll = words.pick(["", "scroll "]);
  return words.pick([
    `declare loot ${scroll}cursor ${words.pick(["", "with hold "])}for ${select(words)}`,
    `declare loot cursor with hold for ${select(words)}`,
    "fetch all from loot",
    "fetch all from loot",
    "fetch backward all from loot",
    "move last in loot",
    "close all",
    `prepare loot as ${select(words)}`,
    "execute loot",
    "execute loot",
    "deallocate all",
    "select * from pg_cursors",
    "select * from pg_prepared_statements",
  ]);
}

/** Begins, cuts or ends the transaction. */
export function transaction(words: Words): string {
  return words.pick([
    ...["savepoint a", "savepoint a", "rollback to a", "rollback to a", "release a"],
    ...["commit", "rollback", "begin", "commit and chain", "rollback and chain"],
    "begin isolation level repeatable read, read only",
    "set constraints all immediate",
  ]);
}
