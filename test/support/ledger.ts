// Calls of the budget functions, and what the ledger says after them, for tests.
import { randomUUID } from "node:crypto";
import { expect } from "vitest";
import { oneAs, type Row } from "./contract.ts";
import type { TestDatabase } from "./database.ts";

/** What a hold is asked for; what is absent is one of 1,000,000 nano-USD, a tenth of a cent. */
export type Asked = {
  key?: string | null;
  provider?: string | null;
  input?: unknown;
  output?: unknown;
  runId?: string | null;
  attempt?: number | null;
  ttl?: string | null;
};

/** Takes the values of `reserveValues`. */
export const RESERVE = `select * from app.llm_reserve($1, $2, idempotency_key => $3, provider => $4, model => 'm',
  input_tokens_bound => $5, max_output_tokens => $6, run_id => $7, attempt => $8, ttl => $9)`;

const SETTLE = `select * from app.llm_settle($1, $2, reservation_id => $3, input_tokens => $4, output_tokens => $5,
  cached_input_tokens => $6)`;

/** At the price of provider `p`: 500 input tokens of 1,000 and 250 output tokens of 2,000 nano-USD. */
export function reserveValues(asked: Asked = {}): unknown[] {
  const {
    key = randomUUID(),
    provider = "p",
    input = 500,
    output = 250,
    runId = null,
    attempt = 1,
    ttl = "2 minutes",
  } = asked;
  return [key, provider, input, output, runId, attempt, ttl];
}

/** A period of a budget as it stands, in nano-USD. */
export type Balance = { period: string; reserved: number; presumed: number; spent: number };

/** The budget functions as the service calls them, and the books behind them. */
export type Ledger = {
  /** Makes the prices of the providers `p` (1 and 2 dollars a million, cached 0.1) and `free`. */
  setPrices(): Promise<void>;
  setBudget(tenantName: string, limitUsd: string, period?: string): Promise<void>;
  reserve(tenantId: string, asked?: Asked): Promise<Row>;
  settle(tenantId: string, id: string, input: unknown, output: unknown, cached?: unknown): Promise<Row>;
  release(tenantId: string, id: string): Promise<Row>;
  presume(tenantId: string, id: string): Promise<Row>;
  /** Every period row of the tenant, by period and start. */
  balances(tenantId: string): Promise<Balance[]>;
  hold(id: string): Promise<Row>;
  usage(id: string): Promise<Row[]>;
  /** What `app.llm_check` finds wrong. */
  broken(): Promise<Row[]>;
  /** How many holds the tenant has; each has a key. */
  holdCount(tenantId: string): Promise<number>;
};

/** The ledger of a test database. */
export function ledgerOf(database: TestDatabase): Ledger {
  const { service, superuser, ops } = database;
  const rows = async (text: string, values: unknown[] = []) =>
    (await superuser.query(text, values)).rows as Row[];
  return {
    async setPrices() {
      await ops.query(
        "select ops.llm_price_set('p', 'm', 1, 2, cached_input_usd_per_million => 0.1, reason => 'test')",
      );
      await ops.query("select ops.llm_price_set('free', 'm', 0, 0, reason => 'test')");
    },
    async setBudget(tenantName, limitUsd, period = "month") {
      await ops.query("select ops.set_limit(tenant => $1, limit_usd => $2, period => $3, reason => 'test')", [
        tenantName,
        limitUsd,
        period,
      ]);
    },
    reserve: (tenantId, asked) => oneAs(service, tenantId, RESERVE, reserveValues(asked)),
    settle: (tenantId, id, input, output, cached = 0) =>
      oneAs(service, tenantId, SETTLE, [id, input, output, cached]),
    release: (tenantId, id) =>
      oneAs(service, tenantId, "select * from app.llm_release($1, $2, $3, 'never sent')", [id]),
    presume: (tenantId, id) =>
      oneAs(service, tenantId, "select * from app.llm_presume($1, $2, $3, 'no answer')", [id]),
    balances: (tenantId) =>
      rows(
        `select b.period, p.reserved_nanousd::float8 as reserved, p.presumed_nanousd::float8 as presumed,
                p.spent_nanousd::float8 as spent
         from app.llm_budget_periods as p
         join app.llm_budgets as b on b.tenant_id = p.tenant_id and b.id = p.budget_id
         where p.tenant_id = $1 order by b.period, p.period_start`,
        [tenantId],
      ) as Promise<Balance[]>,
    hold: async (id) => (await rows("select * from app.llm_reservations where id = $1", [id]))[0]!,
    usage: (id) => rows("select * from app.llm_usage where reservation_id = $1", [id]),
    broken: () => rows("select * from app.llm_check()"),
    async holdCount(tenantId) {
      const [count] = await rows(
        `select (select count(*) from app.llm_reservations where tenant_id = $1)::int as holds,
                (select count(*) from app.llm_reservation_keys where tenant_id = $1)::int as keys`,
        [tenantId],
      );
      expect(count!["keys"]).toBe(count!["holds"]);
      return count!["holds"];
    },
  };
}
