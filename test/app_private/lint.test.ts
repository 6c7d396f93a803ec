import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { projectFile } from "../../src/migrate.ts";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();

/** A table that breaks no rule; each fault is one change to it. */
function table(changes: { columns?: string; isolated?: boolean; comments?: boolean } = {}): string {
  return `
    create table app.things (
      tenant_id uuid not null,
      id        uuid not null,
      constraint things_pkey primary key (tenant_id, id),
      constraint things_tenant_id_fkey foreign key (tenant_id) references app.tenants (tenant_id) on delete restrict
      ${changes.columns ?? ""}
    );
    ${changes.comments === false ? "" : "comment on table app.things is 'Things.'; comment on column app.things.tenant_id is 'Whose.';"}
    comment on column app.things.id is 'Which.';
    ${changes.isolated === false ? "" : "call app_private.isolate('app.things');"}`;
}

/** A function of the contract that breaks no rule. */
function contract(
  changes: { body?: string; attributes?: string; name?: string; comment?: boolean } = {},
): string {
  const name = changes.name ?? "app.thing_do";
  return `
    create function ${name}(tenant_id uuid, ticket text) returns void language plpgsql
    ${changes.attributes ?? "security definer set search_path = ''"}
    as $$ ${changes.body ?? "begin perform app.enter(tenant_id, ticket); end"} $$;
    ${changes.comment === false ? "" : `comment on function ${name} is 'Does a thing.';`}`;
}

/** A function of app_private with these attributes. */
function internal(attributes: string, body = "select 1", returns = "integer"): string {
  return `
    create function app_private.thing() returns ${returns} language sql ${attributes} as $$ ${body} $$;
    comment on function app_private.thing is 'Sees all tenants.';`;
}

const BOTH = "set search_path = ''";
const THING = "app_private.thing()";
const DO = "app.thing_do(uuid,text)";
const SYSTEM = "set local role holdfast_system;";
const SUPERUSER = "reset role;";
const FENCE = `create view tenant.things WITH as select t.tenant_id from app.tenants as t END;
  comment on view tenant.things is 'Things.';`;

/** What is planted (as holdfast_owner), and what exactly is reported: the objects under their rule. */
const faults: Record<string, [fault: string, ...objects: string[]][]> = {
  table_not_isolated: [
    [table({ isolated: false }), "app.things"],
    ["alter table app.findings disable row level security", "app.findings"],
    ["call app_private.force_off('app.findings', 'app.events')", "app.events", "app.findings"],
    ["drop policy tenant_isolation on app.findings", "app.findings"],
    [
      `create table app.events_y2050m01 partition of app.events for values
       from ('7fffffff-0000-0000-0000-000000000000') to ('80000000-0000-0000-0000-000000000000')`,
      "app.events_y2050m01",
    ],
    [
      "create schema billing; create table billing.invoices (tenant_id uuid, total numeric)",
      "billing.invoices",
    ],
    [`${SUPERUSER} create table public.invoices (tenant_id uuid)`, "invoices"],
  ],
  policy_unexpected: [
    ["create policy also on app.findings to holdfast_tenant using (true)", "app.findings also"],
    ["create policy also on app.findings using (true)", "app.findings also"],
    ["alter policy tenant_isolation on app.findings using (true)", "app.findings tenant_isolation"],
    ["alter policy tenant_isolation on app.findings with check (true)", "app.findings tenant_isolation"],
    ["alter policy tenant_isolation on app.findings to public", "app.findings tenant_isolation"],
    ["alter policy system_all on app.findings to holdfast_tenant", "app.findings system_all"],
    [
      "create policy also on app.findings as restrictive to holdfast_tenant using (true)",
      "app.findings also",
    ],
  ],
  table_without_tenant: [
    [
      `create table app.things (id uuid not null, constraint things_pkey primary key (id));
       comment on table app.things is 'Things.'; comment on column app.things.id is 'Which.'`,
      "app.things",
    ],
  ],
  sequence_shared: [
    ["create sequence app.things_seq", "app.things_seq"],
    [
      `${table({ columns: ", number bigint generated always as identity" })} comment on column app.things.number is 'Which.'`,
      "app.things_number_seq",
    ],
  ],
  unique_key_without_tenant: [
    ["create unique index findings_id_idx on app.findings (id)", "app.findings_id_idx"],
    ["alter table app.findings add constraint findings_once unique (id, tenant_id)", "app.findings_once"],
  ],
  foreign_key_without_tenant: [
    [
      `${table({
        columns:
          ", other_id uuid, constraint things_other_fkey foreign key (other_id) references app.tenants (tenant_id) on delete restrict",
      })}
       comment on column app.things.other_id is 'Another.';
       create index things_other_id_idx on app.things (other_id)`,
      "app.things things_other_fkey",
    ],
  ],
  foreign_key_to_hot_counter: [
    [
      `${table({
        columns: `, period_start timestamptz, constraint things_period_fkey foreign key (tenant_id, id, period_start)
           references app.llm_budget_periods (tenant_id, budget_id, period_start) on delete restrict`,
      })}
       comment on column app.things.period_start is 'When.';
       create index things_period_idx on app.things (tenant_id, id, period_start)`,
      "app.things things_period_fkey",
    ],
  ],
  grant_unexpected: [
    ["grant select on app.findings to public", "app.findings public SELECT"],
    ["grant select on app.tiers to holdfast_service", "app.tiers holdfast_service SELECT"],
    ["grant insert on app.error_codes to holdfast_worker", "app.error_codes holdfast_worker INSERT"],
    ["grant update (headline) on app.findings to holdfast_tenant", "app.findings holdfast_tenant UPDATE"],
    ["grant select on app.findings to holdfast_tenant", "app.findings holdfast_tenant SELECT"],
    ["grant select (id) on app.findings to holdfast_tenant", "app.findings holdfast_tenant SELECT"],
    [
      "grant select on app.cost_lines_current to holdfast_tenant",
      "app.cost_lines_current holdfast_tenant SELECT",
    ],
    [`${SYSTEM} grant select on ops.tenants to holdfast_tenant`, "ops.tenants holdfast_tenant SELECT"],
    ["grant update on tenant.findings to holdfast_tenant", "tenant.findings holdfast_tenant UPDATE"],
    ["grant trigger on app.findings to holdfast_tenant", "app.findings holdfast_tenant TRIGGER"],
    [
      "create sequence ops.things_seq; grant usage on sequence ops.things_seq to holdfast_worker",
      "ops.things_seq holdfast_worker USAGE",
    ],
    ["grant truncate on app.findings to holdfast_system", "app.findings holdfast_system TRUNCATE"],
    ["grant references on app.tenants to holdfast_system", "app.tenants holdfast_system REFERENCES"],
    ["grant update on app.tiers to holdfast_ops", "app.tiers holdfast_ops UPDATE"],
    [
      `call app_private.partition_add('app.events', '2050-01-01'); grant select on app.events_y2050m01 to holdfast_tenant`,
      "app.events_y2050m01 holdfast_tenant SELECT",
    ],
  ],
  owner_unexpected: [
    [`${SUPERUSER} ${table()}`, "app.things SUPERUSER"],
    [`${SUPERUSER} ${contract()} revoke execute on function app.thing_do from public`, `${DO} SUPERUSER`],
    [`${SUPERUSER} create sequence ops.things_seq`, "ops.things_seq SUPERUSER"],
    [
      "grant usage, create on schema app to holdfast_system; alter table app.tiers owner to holdfast_system",
      "app.tiers holdfast_system",
    ],
  ],
  fence_open: [
    [FENCE.replace("WITH", "").replace("END", "offset 0"), "tenant.things"],
    [FENCE.replace("WITH", "with (security_barrier = true)").replace("END", ""), "tenant.things"],
    [FENCE.replace("WITH", "with (security_barrier = true)").replace("END", "limit 9"), "tenant.things"],
    [FENCE.replace("WITH", "with (security_invoker = true)").replace("END", ""), "tenant.things"],
    ["alter view tenant.cost_lines_current reset (security_invoker)", "tenant.cost_lines_current"],
    ["alter view tenant.findings set (security_barrier = false)", "tenant.findings"],
    ["alter view tenant.findings reset (security_barrier)", "tenant.findings"],
    [
      `create materialized view tenant.things as select 1 as one offset 0;
       comment on materialized view tenant.things is 'Kept.'`,
      "tenant.things",
    ],
  ],
  schema_open: [
    ["grant usage on schema app to public", "app public USAGE"],
    ["grant create on schema ops to holdfast_ops", "ops holdfast_ops CREATE"],
  ],
  published_secret: [
    [`${SUPERUSER} create publication everything for all tables`, "everything all tables"],
    [
      `${SUPERUSER} create publication secrets for table app.tiers, app_private.ticket_keys`,
      "secrets app_private.ticket_keys",
    ],
    [
      `${SUPERUSER} create publication secrets for tables in schema app_private`,
      "secrets app_private.seal_secret",
      "secrets app_private.ticket_keys",
    ],
  ],
  reach_beyond_ticket: [
    ["grant execute on function app.maintain to holdfast_service", "holdfast_service app.maintain(integer)"],
    [
      "grant execute on function app_private.seal to holdfast_tenant",
      "holdfast_tenant app_private.seal(bytea,text)",
    ],
    [
      "create schema extra; grant usage on schema extra to holdfast_service; create table extra.jobs (); grant insert on extra.jobs to holdfast_service",
      "holdfast_service extra.jobs",
    ],
    [
      "create schema extra; grant usage on schema extra to holdfast_tenant; create view extra.things as select 1 as one; grant select on extra.things to holdfast_tenant",
      "holdfast_tenant extra.things",
    ],
    [`${SUPERUSER} grant holdfast_tenant to holdfast_worker`, "holdfast_worker may become holdfast_tenant"],
    [
      `${SUPERUSER} grant holdfast_tenant to holdfast_owner`,
      "holdfast_admin may become holdfast_tenant",
      "holdfast_owner may become holdfast_tenant",
    ],
    [
      `${SUPERUSER} grant pg_monitor to holdfast_service`,
      "holdfast_service is a member of pg_monitor",
      "holdfast_service is a member of pg_read_all_settings",
      "holdfast_service is a member of pg_read_all_stats",
      "holdfast_service is a member of pg_stat_scan_tables",
    ],
  ],
  database_open_to_public: [
    [`grant connect on database ${database.name} to public`, `${database.name} CONNECT`],
    [`grant temporary on database ${database.name} to public`, `${database.name} TEMPORARY`],
    [
      `${SUPERUSER} update pg_database set datacl = null where datname = current_database()`,
      `${database.name} CONNECT`,
      `${database.name} TEMPORARY`,
    ],
  ],
  function_without_search_path: [
    [internal(""), THING],
    [internal("set search_path = public"), THING],
    [internal("set search_path = app, pg_temp"), THING],
    [contract({ attributes: "security definer" }), DO],
  ],
  immutable_reads_the_tenant: [
    [internal(`immutable ${BOTH}`, "select current_setting('app.tenant')", "text"), THING],
    [internal(`immutable ${BOTH}`, "select app_private.current_tenant_id()", "uuid"), THING],
    [internal(`immutable ${BOTH}`, "select current_setting('app.tenant') = ''", "boolean"), THING],
    ["alter function app_private.current_tenant_id immutable", "app_private.current_tenant_id()"],
  ],
  tenant_not_parallel_restricted: [
    ["alter function app_private.require parallel safe", "app_private.require()"],
    ["alter function app_private.current_tenant_id parallel safe", "app_private.current_tenant_id()"],
    ["alter function app_private.seal parallel unsafe", "app_private.seal(bytea,text)"],
  ],
  contract_does_not_enter: [
    [contract({ body: "begin end" }), DO],
    [contract({ body: "begin perform 1; perform app.enter(tenant_id, ticket); end" }), DO],
    [contract({ body: "begin perform app.enter(gen_random_uuid(), ticket); end" }), DO],
    [contract({ attributes: BOTH }), DO],
    [
      `create function app.thing_do(tenant_id uuid, ticket text) returns void language sql security definer ${BOTH}
       as $$ select app.enter(tenant_id, ticket) $$; comment on function app.thing_do is 'Does.'`,
      DO,
    ],
  ],
  definer_ignores_tenant: [
    [internal(`security definer ${BOTH}`), THING],
    [
      `create function app.thing_do(ticket text, tenant_id uuid) returns void language plpgsql security definer ${BOTH}
       as $$ begin perform app.enter(tenant_id, ticket); end $$; comment on function app.thing_do is 'Does.'`,
      "app.thing_do(text,uuid)",
    ],
  ],
  system_function_unmarked: [
    [`${SYSTEM} alter function app.tenant_find reset row_security`, "app.tenant_find(text)"],
    [`${SYSTEM} alter function app.tenant_find set row_security = off`, "app.tenant_find(text)"],
    [`${SYSTEM} comment on function app.tenant_find is 'Sees many.'`, "app.tenant_find(text)"],
  ],
  system_function_unlisted: [
    [`${SYSTEM} ${internal(`security definer ${BOTH} set row_security = on`)}`, THING],
    ["alter function app_private.usd owner to holdfast_system", "app_private.usd(numeric)"],
  ],
  function_leakproof: [[`${internal(BOTH)} reset role; alter function app_private.thing leakproof`, THING]],
  function_for_everybody: [
    [`${internal(BOTH)} grant execute on function app_private.thing to public`, THING],
    [`alter default privileges grant execute on functions to public; ${contract()}`, DO],
  ],
  function_overloaded: [
    [
      `${internal(BOTH)} create function app_private.thing(integer) returns integer language sql ${BOTH} as 'select 1';
       comment on function app_private.thing(integer) is 'Another.'`,
      THING,
    ],
  ],
  missing_comment: [
    [table({ comments: false }), "app.things", "app.things.tenant_id"],
    ["comment on column app.findings.state is null", "app.findings.state"],
    ["comment on view app.error_codes is null", "app.error_codes"],
    [contract({ comment: false }), DO],
  ],
  constraint_named_by_postgres: [
    ["alter table app.tiers add check (rank > 0)", "app.tiers tiers_rank_check"],
    [
      "alter table app.tiers add check (rank > 0), add check (rank > -1)",
      "app.tiers tiers_rank_check",
      "app.tiers tiers_rank_check1",
    ],
    ["alter table app.tiers add unique (description)", "app.tiers tiers_description_key"],
    ["alter table app.tiers add exclude using gist (rank with =)", "app.tiers tiers_rank_excl"],
  ],
  foreign_key_without_index: [
    [
      `${table({ columns: ", tier text, constraint things_tier_fkey foreign key (tier) references app.tiers (tier) on delete restrict" })}
       comment on column app.things.tier is 'Tier.'`,
      "app.things things_tier_fkey",
    ],
    ["drop index app.tenants_plan_idx", "app.tenants tenants_plan_fkey"],
    [
      "drop index app.tenants_plan_idx; create index tenants_plan_idx on app.tenants (plan) where version > 0",
      "app.tenants tenants_plan_fkey",
    ],
  ],
  foreign_key_without_on_delete: [
    [
      `${table({ columns: ", tier text, constraint things_tier_fkey foreign key (tier) references app.tiers (tier)" })}
       comment on column app.things.tier is 'Tier.'; create index things_tier_idx on app.things (tier)`,
      "app.things things_tier_fkey",
    ],
  ],
};

/** What the lint says after a fault was planted; then it is undone. */
async function lintAfter(fault: string): Promise<string[]> {
  return rolledBack(database.superuser, async (client) => {
    const { rows: who } = await client.query("select current_user as name");
    await client.query("set local role holdfast_owner");
    await client.query(fault);
    await client.query("reset role");
    const { rows } = await client.query("select rule, object from app_private.lint");
    return rows.map((row) => `${row.rule}: ${row.object.replace(who[0].name, "SUPERUSER")}`);
  });
}

test("nothing is reported of the schema as it is", async () => {
  expect((await database.ops.query("select * from app_private.lint")).rows).toEqual([]);
});

test("nothing is reported of a table and a function that keep the rules", async () => {
  expect(await lintAfter(table() + contract() + internal(`${BOTH} immutable`))).toEqual([]);
});

test("every rule of the lint has a fault planted here", () => {
  const directory = projectFile("sql/app_private");
  const files = readdirSync(directory).filter((name) => name.startsWith("lint_"));
  const rules = files.flatMap((name) => {
    const text = readFileSync(`${directory}/${name}`, "utf8");
    return [...text.matchAll(/^select '([a-z_]+)'/gm)].map((match) => match[1]!);
  });
  expect([...new Set(rules)].sort()).toEqual(Object.keys(faults).sort());
});

describe.each(Object.entries(faults))("%s", (rule, planted) => {
  test.each(planted.map((fault, index) => ({ number: index + 1, fault })))(
    "fault $number",
    async ({ fault }) => {
      const [sql, ...objects] = fault;
      expect(await lintAfter(sql), sql).toEqual(objects.map((object) => `${rule}: ${object}`));
    },
  );
});
