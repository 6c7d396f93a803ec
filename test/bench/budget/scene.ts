// One hot tenant and many others, each with a budget that never ends; and the tables of those that check nothing.
import type pg from "pg";
import type { Db } from "../../../src/db.ts";
import { createPool } from "../../../src/db.ts";
import { withClient } from "../../../src/migrate.ts";
import { mintTicket } from "../../../src/tickets.ts";
import { TEST_TICKET_KEY } from "../../support/constants.ts";
import type { BenchServer, Scratch } from "../server.ts";

/** How many reservations of a tenant are open in the textbook's table. */
export const OPEN = 1_000;

/** Longer than any bench, in ms. */
const HOUR_MS = 3_600_000;

/** How the work falls on tenants. */
export type Spread = "hot" | "many";

export type Scene = {
  server: BenchServer;
  scratch: Scratch;
  /** The tenants of each spread. */
  tenants: Record<Spread, string[]>;
  /** What a pool of so many connections reaches, as the service does. */
  connect(connections: number, observe?: (batch: number) => void): Db & { pool: pg.Pool };
};

/** What every side asks for: 500 input and 250 output tokens of a model that costs 1 and 2 dollars a million. */
export const ASK = { provider: "bench", model: "m", input: 500, output: 250, nanousd: 1_000_000 };

/** Makes a database with the tenant that all want, and so many others. */
export async function makeScene(server: BenchServer, many: number): Promise<Scene> {
  const scratch = await server.scratch();
  const tenants = await withClient(scratch.superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    // Tickets that stand in a table are good for any backend; the shell's cost the same.
    await client.query("update app_private.ticket_keys set binding = 'none'");
    await client.query("select ops.llm_price_set($1, $2, 1, 2, reason => 'bench')", [
      ASK.provider,
      ASK.model,
    ]);
    const { rows } = await client.query<{ tenant_id: string }>(
      `with made as (
         insert into app.tenants (name) select 'bench ' || n from generate_series(0, $1::integer) as n
         returning tenant_id, name),
       budgets as (
         insert into app.llm_budgets (tenant_id, limit_nanousd) select tenant_id, 9e18::bigint from made)
       select tenant_id from made order by name <> 'bench 0', name`,
      [many],
    );
    const ids = rows.map((row) => row.tenant_id);
    await client.query(TABLES);
    // The same kind of id at the least cost: before 18 in no order of time.
    const id = server.version.startsWith("18") ? "uuidv7" : "gen_random_uuid";
    await client.query(`create function bench.id() returns uuid language sql volatile return ${id}()`);
    await client.query(
      "insert into bench.tenants select n - 1, id, ticket from unnest($1::uuid[], $2::text[]) with ordinality as t (id, ticket, n)",
      [ids, ids.map((id) => mintTicket(TEST_TICKET_KEY, id, 0, Date.now() + HOUR_MS))],
    );
    await client.query(FILL, [OPEN]);
    await client.query("vacuum analyze");
    await client.query("checkpoint");
    return ids;
  });
  return {
    server,
    scratch,
    tenants: { hot: tenants.slice(0, 1), many: tenants.slice(1) },
    connect: (connections, observe) => ({
      pool: createPool({
        connectionString: scratch.url("holdfast_service"),
        application_name: "bench",
        max: connections,
      }),
      ticketKey: TEST_TICKET_KEY,
      ticketBinding: "none",
      budgets: { observe: { batch: (size) => observe?.(size), refused: () => {}, busy: () => {} } },
    }),
  };
}

/** The columns and indexes of ours, with no constraint, no trigger, no policy and no partition. */
const TABLES = `
create schema bench;
create table bench.tenants (n integer primary key, tenant_id uuid not null, ticket text not null);
create table bench.textbook_budgets (tenant_id uuid primary key, limit_nanousd bigint not null);
create table bench.textbook_reservations (
  id bigint generated always as identity primary key, tenant_id uuid not null, status text not null,
  nanousd bigint not null, created_at timestamptz not null default now());
create index on bench.textbook_reservations (tenant_id) where status = 'OPEN';
create function bench.textbook(tenant_id uuid, nanousd bigint) returns boolean language plpgsql as $$
declare
  v_limit bigint;
  v_open  bigint;
begin
  select b.limit_nanousd into v_limit
  from bench.textbook_budgets as b where b.tenant_id = textbook.tenant_id for update;
  select sum(r.nanousd) into v_open
  from bench.textbook_reservations as r where r.tenant_id = textbook.tenant_id and r.status = 'OPEN';
  if v_open + nanousd > v_limit then return false; end if;
  insert into bench.textbook_reservations (tenant_id, status, nanousd) values (tenant_id, 'OPEN', nanousd);
  return true;
end $$;
create table bench.llm_reservations (like app.llm_reservations including defaults including indexes);
alter table bench.llm_reservations alter id drop default;
create table bench.llm_reservation_budgets (like app.llm_reservation_budgets including indexes);
create table bench.llm_reservation_keys (like app.llm_reservation_keys including defaults including indexes);
create table bench.llm_budget_periods (like app.llm_budget_periods including defaults including indexes)
  with (fillfactor = 50);
grant usage on schema bench to holdfast_service;
grant select, insert, update on all tables in schema bench to holdfast_service;
`;

const FILL = `
with budgets as (
  insert into bench.textbook_budgets select tenant_id, 9e18::bigint from bench.tenants),
periods as (
  insert into bench.llm_budget_periods (tenant_id, budget_id, period_start, period_end)
  select tenant_id, tenant_id, '-infinity', 'infinity' from bench.tenants)
insert into bench.textbook_reservations (tenant_id, status, nanousd)
select t.tenant_id, 'OPEN', 1000000 from generate_series(1, $1::integer), bench.tenants as t`;
