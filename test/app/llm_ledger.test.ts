// The budget functions together: random sequences against a model in memory. SEED=… runs one again.
import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { beforeAll, expect, test } from "vitest";
import { AppError } from "../../src/errors.ts";
import { testDatabase } from "../support/database.ts";
import { type Balance, ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);

beforeAll(() => ledger.setPrices());

const SEQUENCES = 200;

type Operation =
  | { kind: "reserve"; key: number; input: number; output: number; lapses: boolean }
  | { kind: "settle"; nth: number; input: number; output: number; cached: number }
  | { kind: "release" | "presume"; nth: number }
  | { kind: "expire" }
  | { kind: "limit"; period: "total" | "month"; units: number };

const tokens = fc.integer({ min: 0, max: 2_000 });
const nth = fc.nat(9);

const operation: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("reserve" as const),
      key: fc.nat(12),
      input: tokens,
      output: tokens,
      lapses: fc.boolean(),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("settle" as const),
      nth,
      input: tokens,
      output: tokens,
      cached: fc.nat(20),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom("release" as const, "presume" as const), nth }) },
  { weight: 1, arbitrary: fc.constant({ kind: "expire" as const }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("limit" as const),
      period: fc.constantFrom("total" as const, "month" as const),
      units: fc.nat(12),
    }),
  },
);

type Status = "RESERVED" | "APPLIED" | "RELEASED" | "PRESUMED";
type Hold = {
  id: string;
  request: string;
  status: Status;
  amount: number;
  used: string;
  cost: number;
  lapses: boolean;
};

/** The books as they should be, in nano-USD. Every hold is in both budgets. */
class Model {
  readonly limits = { total: 6_000_000, month: 9_000_000 };
  readonly holds: Hold[] = [];
  readonly byKey = new Map<number, Hold>();
  admitted = false;

  sum(...statuses: Status[]): number {
    return this.holds
      .filter((hold) => statuses.includes(hold.status))
      .reduce((total, hold) => total + (hold.status === "APPLIED" ? hold.cost : hold.amount), 0);
  }

  fits(amount: number): boolean {
    const counted = this.sum("RESERVED", "PRESUMED", "APPLIED");
    return Object.values(this.limits).every((limit) => limit > 0 && counted + amount <= limit);
  }

  balances(): Balance[] {
    if (!this.admitted) return [];
    const sums = {
      reserved: this.sum("RESERVED"),
      presumed: this.sum("PRESUMED"),
      spent: this.sum("APPLIED"),
    };
    return ["month", "total"].map((period) => ({ period, ...sums }));
  }
}

const cost = (input: number, output: number, cached = 0) =>
  (input - cached) * 1_000 + cached * 100 + output * 2_000;

/** The name of the refusal, or what was answered. */
async function answer<T>(called: Promise<T>): Promise<T | string> {
  return called.catch((error: unknown) => {
    if (error instanceof AppError) return error.code;
    throw error;
  });
}

async function step(model: Model, tenant: { tenantId: string; name: string }, op: Operation): Promise<void> {
  switch (op.kind) {
    case "reserve":
      return reserveStep(model, tenant.tenantId, op);
    case "settle":
      return settleStep(model, tenant.tenantId, op);
    case "release":
    case "presume":
      return endStep(model, tenant.tenantId, op);
    case "expire": {
      // What is locked is left for the next time, and a refusal is heard before its locks are gone: they are waited for.
      await database.superuser.query("select from app.llm_budget_periods where tenant_id = $1 for update", [
        tenant.tenantId,
      ]);
      await database.worker.pool.query("select app.llm_expire()");
      for (const hold of model.holds) if (hold.status === "RESERVED" && hold.lapses) hold.status = "PRESUMED";
      return;
    }
    case "limit": {
      model.limits[op.period] = op.units * 1_000_000;
      await database.superuser.query(
        "update app.llm_budgets set limit_nanousd = $3 where tenant_id = $1 and period = $2",
        [tenant.tenantId, op.period, model.limits[op.period]],
      );
    }
  }
}

async function reserveStep(
  model: Model,
  tenantId: string,
  op: Operation & { kind: "reserve" },
): Promise<void> {
  const { key, input, output } = op;
  const request = `${input} ${output}`;
  const got = await answer(
    ledger.reserve(tenantId, { key: `k${key}`, input, output, ttl: op.lapses ? "0" : "1 hour" }),
  );
  const known = model.byKey.get(key);
  if (known !== undefined) {
    if (known.request !== request) expect(got).toBe("idempotency_conflict");
    else expect(got).toMatchObject({ id: known.id, status: known.status, replayed: true });
    return;
  }
  const amount = cost(input, output);
  if (!model.fits(amount)) {
    expect(got).toBe("budget_exceeded");
    return;
  }
  expect(got).toMatchObject({ status: "RESERVED", estimated_cost_nanousd: String(amount), replayed: false });
  const { id } = got as { id: string };
  const hold: Hold = { id, request, status: "RESERVED", amount, used: "", cost: 0, lapses: op.lapses };
  model.holds.push(hold);
  model.byKey.set(key, hold);
  model.admitted = true;
}

async function settleStep(model: Model, tenantId: string, op: Operation & { kind: "settle" }): Promise<void> {
  const hold = model.holds[op.nth];
  const cached = Math.min(op.cached, op.input);
  const used = `${op.input} ${op.output} ${cached}`;
  const got = await answer(ledger.settle(tenantId, hold?.id ?? randomUUID(), op.input, op.output, cached));
  if (hold === undefined) return expect(got).toBe("reservation_not_found");
  if (hold.status === "RELEASED" || (hold.status === "APPLIED" && hold.used !== used))
    return expect(got).toBe("reservation_closed");
  const spent = cost(op.input, op.output, cached);
  Object.assign(hold, { status: "APPLIED", used, cost: spent });
  expect(got).toMatchObject({
    cost_nanousd: String(spent),
    over_hold_nanousd: String(Math.max(0, spent - hold.amount)),
  });
}

async function endStep(
  model: Model,
  tenantId: string,
  op: Operation & { kind: "release" | "presume" },
): Promise<void> {
  const hold = model.holds[op.nth];
  const wanted = op.kind === "release" ? "RELEASED" : "PRESUMED";
  const got = await answer(ledger[op.kind](tenantId, hold?.id ?? randomUUID()));
  if (hold === undefined) return expect(got).toBe("reservation_not_found");
  if (hold.status !== wanted && hold.status !== "RESERVED") return expect(got).toBe("reservation_closed");
  hold.status = wanted;
  expect(got).toEqual({ id: hold.id, status: wanted });
}

/** As ops.tenant_add makes one, with a budget in total and one a month, and no time spent on its name. */
async function addTenant(model: Model): Promise<{ tenantId: string; name: string }> {
  const { rows } = await database.superuser.query(
    `with tenant as (insert into app.tenants (name) values ($1) returning tenant_id, name),
          budgets as (
            insert into app.llm_budgets (tenant_id, period, limit_nanousd)
            select t.tenant_id, b.period, b.limit_nanousd
            from tenant as t, (values ('total', $2::bigint), ('month', $3)) as b (period, limit_nanousd))
     select * from tenant`,
    [randomUUID(), model.limits.total, model.limits.month],
  );
  return { tenantId: rows[0].tenant_id, name: rows[0].name };
}

test(`${SEQUENCES} random lives of a budget end as the model says`, { timeout: 60_000 }, async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
  console.info(`llm_ledger: SEED=${seed}`);
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { minLength: 4, maxLength: 14 }), async (operations) => {
      const model = new Model();
      const tenant = await addTenant(model);
      for (const op of operations) await step(model, tenant, op);
      expect(await ledger.balances(tenant.tenantId)).toEqual(model.balances());
    }),
    { seed, numRuns: SEQUENCES, endOnFailure: false },
  );
  expect(await ledger.broken()).toEqual([]);
});
