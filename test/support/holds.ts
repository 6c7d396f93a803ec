// Many holds in one call, as the coalescer asks for them, and budgets of every scope, for tests of the ledger.
import { randomUUID } from "node:crypto";
import { expect } from "vitest";
import { as, oneAs, type Row } from "./contract.ts";
import type { TestDatabase, TestTenant } from "./database.ts";

/** A request for a hold: what is absent is one of 1,000,000 nano-USD at the price of provider `p`. */
export type Ask = Record<string, unknown>;

/** `asked` with a key of its own, 500 input tokens of 1,000 nano-USD and 250 output tokens of 2,000. */
export function ask(asked: Ask = {}): Ask {
  return {
    idempotency_key: randomUUID(),
    provider: "p",
    model: "m",
    input_tokens_bound: 500,
    max_output_tokens: 250,
    ...asked,
  };
}

/** A request that costs so many thousand nano-USD, and nothing for output. */
export const askOf = (thousands: number, asked: Ask = {}): Ask =>
  ask({ input_tokens_bound: thousands, max_output_tokens: 0, ...asked });

/** A budget: null is unlimited. */
export type Budget = {
  scope?: string;
  scopeId?: string;
  period?: string;
  limit: number | null;
};

/** A budget in its period as it stands, in nano-USD. */
export type Counters = {
  budget: string;
  reserved: number;
  presumed: number;
  spent: number;
};

/** The calls, all for the login of the service. */
export type Holds = {
  reserveMany(tenantId: string, asks: unknown): Promise<Row[]>;
  settleMany(tenantId: string, settles: unknown): Promise<Row[]>;
  /** One hold that must be admitted: its id. */
  hold(tenantId: string, asked?: Ask): Promise<string>;
  /** Settles one, and answers its row. */
  settle(tenantId: string, id: string, used?: Record<string, unknown>): Promise<Row>;
  extend(tenantId: string, id: unknown, ttl: string | null): Promise<Row>;
  quote(tenantId: string, asked: unknown): Promise<Row>;
  release(tenantId: string, id: string): Promise<Row>;
  presume(tenantId: string, id: string): Promise<Row>;
  writeOff(id: string): Promise<void>;
  expire(): Promise<string[]>;
  resolve(maxRows?: number): Promise<Row[]>;
  /** A tenant with these budgets and no other. */
  tenantWith(...budgets: Budget[]): Promise<TestTenant>;
  /** Every period row, oldest first, as `scope scope_id period`. */
  counters(tenantId: string): Promise<Counters[]>;
  status(id: string): Promise<string>;
  /** Moves all of a tenant's periods, with what they count, by so many months into the past. */
  monthsPass(tenantId: string, months?: number): Promise<void>;
  /** Nothing is broken. */
  sound(): Promise<void>;
};

/** The calls of a test database. */
export function holdsOf(database: TestDatabase): Holds {
  const { service, superuser, worker, ops } = database;
  const many = (name: string) => (tenantId: string, list: unknown) =>
    as(service, tenantId, `select * from app.${name}($1, $2, $3::jsonb)`, [asJson(list)]);
  const [reserveMany, settleMany] = [many("llm_reserve_many"), many("llm_settle_many")];
  const end = (name: string) => (tenantId: string, id: string) =>
    oneAs(service, tenantId, `select * from app.${name}($1, $2, $3, 'test')`, [id]);
  return {
    reserveMany,
    settleMany,
    async hold(tenantId, asked) {
      const [row] = await reserveMany(tenantId, [ask(asked)]);
      expect(row).toMatchObject({ status: "RESERVED", refusal: null });
      return row!["id"];
    },
    async settle(tenantId, id, used = {}) {
      const [row] = await settleMany(tenantId, [
        { reservation_id: id, input_tokens: 100, output_tokens: 20, ...used },
      ]);
      return row!;
    },
    extend: (tenantId, id, ttl) =>
      oneAs(service, tenantId, "select * from app.llm_extend($1, $2, $3, $4)", [id, ttl]),
    quote: (tenantId, asked) =>
      oneAs(service, tenantId, "select * from app.llm_quote($1, $2, $3::jsonb)", [asJson(asked)]),
    release: end("llm_release"),
    presume: end("llm_presume"),
    async writeOff(id) {
      await ops.query("select ops.llm_write_off($1, 'test')", [id]);
    },
    expire: async () =>
      (await worker.pool.query("select reservation_id from app.llm_expire()")).rows.map(
        (row) => row.reservation_id,
      ),
    resolve: async (maxRows = 500) =>
      (await worker.pool.query("select * from app.llm_presumed_resolve($1)", [maxRows])).rows,
    async tenantWith(...budgets) {
      const { rows } = await superuser.query(
        `with tenant as (insert into app.tenants (name) values ($1) returning tenant_id, name),
              budgets as (
                insert into app.llm_budgets (tenant_id, scope, scope_id, period, limit_nanousd, unlimited)
                select t.tenant_id, b.scope, b.scope_id, b.period, b.limit, b.limit is null
                from tenant as t, jsonb_to_recordset($2) as b (scope text, scope_id text, period text, "limit" bigint))
         select * from tenant`,
        [
          randomUUID(),
          JSON.stringify(
            budgets.map(({ scope = "tenant", scopeId = "", period = "month", limit }) => ({
              scope,
              scope_id: scopeId,
              period,
              limit,
            })),
          ),
        ],
      );
      return { tenantId: rows[0].tenant_id, name: rows[0].name };
    },
    async counters(tenantId) {
      const { rows } = await superuser.query(
        `select concat_ws(' ', b.scope, nullif(b.scope_id, ''), b.period) as budget, p.reserved_nanousd::float8 as reserved,
                p.presumed_nanousd::float8 as presumed, p.spent_nanousd::float8 as spent
         from app.llm_budget_periods as p
         join app.llm_budgets as b on b.tenant_id = p.tenant_id and b.id = p.budget_id
         where p.tenant_id = $1 order by p.period_start, 1`,
        [tenantId],
      );
      return rows;
    },
    async status(id) {
      const { rows } = await superuser.query("select status from app.llm_reservations where id = $1", [id]);
      return rows[0].status;
    },
    async monthsPass(tenantId, months = 1) {
      await superuser.query(
        `with holds as (
           update app.llm_reservation_budgets set period_start = period_start - make_interval(months => $2)
           where tenant_id = $1 and period_start <> '-infinity')
         update app.llm_budget_periods set period_start = period_start - make_interval(months => $2),
           period_end = period_end - make_interval(months => $2)
         where tenant_id = $1 and period_start <> '-infinity'`,
        [tenantId, months],
      );
    },
    async sound() {
      expect((await superuser.query("select * from app.llm_check()")).rows).toEqual([]);
    },
  };
}

/** A list as it is written, or a text that is JSON already, with whatever numbers and keys it has. */
const asJson = (list: unknown) => (typeof list === "string" ? list : JSON.stringify(list));
