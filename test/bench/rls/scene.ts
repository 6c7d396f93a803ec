// Two equal tables of many tenants, interleaved: one isolated as every table of ours is, one without row security.
import { createHash } from "node:crypto";
import type pg from "pg";
import { withClient } from "../../../src/migrate.ts";

/** How much is in each of the tables. */
export type Size = { rows: number; tenants: number };

/** The two tables. */
export const TABLES = ["plain", "isolated"] as const;

/** The table without row security, and the isolated one. */
export type Table = (typeof TABLES)[number];

/** The id of the tenant with that number, from 0 on. */
export function tenantOf(number: number): string {
  return `00000000-0000-7000-8000-${String(number).padStart(12, "0")}`;
}

/** The id of a row; rows of one tenant are as many places apart as there are tenants. */
export function idOf(place: number): string {
  const hex = createHash("md5").update(String(place)).digest("hex");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** The second in which the row at that place was made. */
export function momentOf(place: number): string {
  return new Date(Date.UTC(2026, 0, 1) + place * 1000).toISOString();
}

const COLUMNS = `
  tenant_id      uuid        not null,
  id             uuid        not null,
  number         bigint      not null,
  amount_nanousd bigint      not null,
  note           text        not null,
  created_at     timestamptz not null`;

const keysOf = (table: Table) => `
  alter table bench.${table}
    add constraint ${table}_pkey primary key (tenant_id, id),
    add constraint ${table}_number_once unique (tenant_id, number);
  create index ${table}_tenant_id_created_at_idx on bench.${table} (tenant_id, created_at);
  grant select, insert on bench.${table} to holdfast_tenant;`;

/** Fills a migrated database. */
export async function makeScene(superuser: pg.ClientConfig, { rows, tenants }: Size): Promise<void> {
  await withClient(superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    await client.query("create schema bench authorization holdfast_owner");
    await client.query("grant usage on schema bench to holdfast_tenant, holdfast_service");
    await client.query(
      `insert into app.tenants (tenant_id, name)
       select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'bench ' || n
       from generate_series(0, $1::integer - 1) as n`,
      [tenants],
    );
    await client.query("set role holdfast_owner");
    for (const table of TABLES)
      await client.query(`create table bench.${table} (${COLUMNS}) with (fillfactor = 85)`);
    await client.query(
      `insert into bench.plain (tenant_id, id, number, amount_nanousd, note, created_at)
       select ('00000000-0000-7000-8000-' || lpad((place % $2)::text, 12, '0'))::uuid, md5(place::text)::uuid,
              place / $2, place, repeat('n', 60), timestamptz '2026-01-01 00:00Z' + place * interval '1 second'
       from generate_series(0, $1::bigint - 1) as place`,
      [rows, tenants],
    );
    await client.query("insert into bench.isolated select * from bench.plain");
    for (const table of TABLES) await client.query(keysOf(table));
    await client.query("call app_private.isolate('bench.isolated')");
    await client.query("call app_private.fence('bench.isolated')");
    // The tenant role has only the fence of a real table; functions of the contract read the table.
    await client.query("grant select on bench.isolated to holdfast_tenant");
    for (const text of functions()) await client.query(text);
    await client.query("reset role");
    await client.query("vacuum analyze");
    await client.query("checkpoint");
  });
}

/** A contract function as all are, and one that does not enter; loops that say how long one pass took, in µs. */
function functions(): string[] {
  const timed = (name: string, body: string) => `
    create function bench.${name}(tenant_id uuid, ticket text, passes integer) returns double precision
    language plpgsql security definer set search_path = ''
    as $$
    declare
      v_amount bigint;
      v_start  timestamptz := pg_catalog.clock_timestamp();
    begin
      for v_pass in 0 .. passes - 1 loop
        ${body}
      end loop;
      return extract(epoch from pg_catalog.clock_timestamp() - v_start) * 1e6 / passes;
    end $$`;
  const contract = (name: string, first: string) => `
    create function bench.${name}(tenant_id uuid, ticket text) returns integer
    language plpgsql security definer set search_path = ''
    as $$ begin ${first} return 1; end $$`;
  const loops = TABLES.flatMap((table) => [
    timed(
      `select_${table}`,
      `select t.amount_nanousd into v_amount from bench.${table} as t
       where t.tenant_id = select_${table}.tenant_id and t.number = v_pass;`,
    ),
    timed(
      `update_${table}`,
      `update bench.${table} as t set amount_nanousd = t.amount_nanousd + 1
       where t.tenant_id = update_${table}.tenant_id and t.number = v_pass;`,
    ),
  ]);
  // Each pass finds the transaction as a new one is: with no tenant.
  const leave = "perform pg_catalog.set_config('app.tenant', '', true);";
  const texts = [
    ...loops,
    timed("leave", leave),
    timed("leave_and_enter", `${leave} perform app.enter(tenant_id, ticket);`),
    contract("call_bare", ""),
    contract("call_entered", "perform app.enter(tenant_id, ticket);"),
  ];
  return [...texts, "grant execute on all functions in schema bench to holdfast_service"];
}
