// The ledger against books in memory: random lives of a tenant, and every counter compared after every step.
// SEED=… runs them again; MONEY_SEQUENCES=… runs more or fewer of them.
import { randomUUID } from "node:crypto";
import fc from "fast-check";
import type pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import {
  type Answer,
  type BookAsk,
  type BookBudget,
  type BookSettle,
  Books,
  type Policy,
  type Rates,
} from "./books.ts";

const SEQUENCES = Number(process.env["MONEY_SEQUENCES"] ?? 2_000);
const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);

const database = testDatabase();
let client: pg.PoolClient;
beforeAll(async () => {
  client = await database.superuser.connect();
});
afterAll(() => client.release());

type Operation =
  /** Requests of the life, by their place. */
  | { kind: "reserve"; asks: number[] }
  | { kind: "settle"; settles: BookSettle[] }
  | { kind: "release" | "presume" | "extend" | "write_off" | "lapse" | "age"; nth: number }
  | { kind: "expire" | "resolve" | "month" }
  | { kind: "policy"; policy: Policy }
  | { kind: "limit"; budget: number; limit: number | null }
  | { kind: "price"; model: string; rates: Rates }
  | { kind: "factor"; factor: number };

const tokens = fc.oneof(fc.nat(2_000), fc.constantFrom(0, 1, 500));
/** Of the holds that there are by then, or none of them. */
const NOBODY = 99;
const nth = fc.oneof({ weight: 25, arbitrary: fc.nat(11) }, { weight: 1, arbitrary: fc.constant(NOBODY) });

const asked: fc.Arbitrary<BookAsk> = fc
  .record({
    key: fc.constantFrom("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"),
    model: fc.constantFrom("m1", "m1", "m1", "m1", "m2", "m2", "m2", "unheard-of"),
    input: fc.oneof({ weight: 20, arbitrary: tokens }, { weight: 1, arbitrary: fc.constant(-1) }),
    output: tokens,
    atLeast: fc.option(fc.integer({ min: 1, max: 50 }), { freq: 1 }),
    user: fc.constantFrom(null, "u", "v"),
    apiKey: fc.constantFrom(null, "k"),
    tags: fc.subarray(["t1", "t2", "t3"]),
    lapses: fc.boolean(),
  })
  .map((ask) => ({
    ...ask,
    atLeast: ask.atLeast === null || ask.output === 0 ? null : Math.min(ask.atLeast, ask.output),
  }));

/** Mostly none, for more than there are tokens at all is refused. */
const few = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.nat(50) });

const settled: fc.Arbitrary<BookSettle> = fc.record({
  nth,
  used: fc.record({ input: tokens, cached: few, output: tokens, reasoning: few }),
  final: fc.boolean(),
  source: fc.constantFrom("provider" as const, "estimated" as const),
});

const rates: fc.Arbitrary<Rates> = fc.record({
  input: fc.bigInt(0n, 2_000n),
  cached: fc.option(fc.bigInt(0n, 3_000n)),
  output: fc.bigInt(0n, 5_000n),
  reasoning: fc.option(fc.bigInt(0n, 6_000n)),
});

/** In units of 100,000 nano-USD; 0 refuses all, null nothing. */
const limit = fc.oneof(
  { weight: 8, arbitrary: fc.oneof(fc.integer({ min: 1, max: 80 }), fc.integer({ min: 80, max: 400 })) },
  { weight: 1, arbitrary: fc.constantFrom(0, null) },
);
const UNIT = 100_000n;

const reserves: fc.Arbitrary<Operation> = fc.record({
  kind: fc.constant("reserve" as const),
  asks: fc.array(fc.nat(6), { minLength: 1, maxLength: 4 }),
});

const policies: fc.Arbitrary<Operation> = fc.record({
  kind: fc.constant("policy" as const),
  policy: fc.constantFrom("hold" as const, "release_after", "charge_worst_case"),
});

const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 8, arbitrary: reserves },
  {
    weight: 7,
    arbitrary: fc.record({
      kind: fc.constant("settle" as const),
      settles: fc.array(settled, { minLength: 1, maxLength: 3 }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        "release" as const,
        "presume",
        "presume",
        "presume",
        "extend",
        "write_off",
        "lapse",
        "age",
        "age",
      ),
      nth,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constantFrom("expire" as const, "resolve", "resolve", "month") }),
  },
  { weight: 1, arbitrary: policies },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("limit" as const), budget: fc.nat(7), limit }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("price" as const), model: fc.constantFrom("m1", "m2"), rates }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("factor" as const),
      factor: fc.constantFrom(0, 500, 333, 2_000),
    }),
  },
);

const NAMES: [scope: string, scopeId: string, period: string][] = [
  ["tenant", "", "month"],
  ["tenant", "", "total"],
  ["tenant", "", "day"],
  ["api_key", "k", "day"],
  ["user", "u", "month"],
  ["model", "p/m1", "week"],
  ["tag", "t1", "total"],
  ["tag", "t2", "month"],
];

const life = fc.record({
  limits: fc.array(limit, { minLength: NAMES.length, maxLength: NAMES.length }),
  budgets: fc.oneof(
    { weight: 9, arbitrary: fc.subarray([...NAMES.keys()].slice(1)).map((others) => [0, ...others]) },
    { weight: 1, arbitrary: fc.subarray([...NAMES.keys()], { minLength: 1 }) },
  ),
  asks: fc.array(asked, { minLength: 7, maxLength: 7 }),
  m1: rates,
  m2: rates,
  operations: fc
    .tuple(policies, reserves, fc.array(operation, { minLength: 6, maxLength: 14 }))
    .map((ops) => ops.flat()),
});
type Life = typeof life extends fc.Arbitrary<infer T> ? T : never;

const inNano = (units: number | null) => (units === null ? null : BigInt(units) * UNIT);

/** What was met, by name: a run that never met something has not tried it. */
const met = new Map<string, number>();
const meet = (name: string) => met.set(name, (met.get(name) ?? 0) + 1);

/** One tenant in one transaction, which is rolled back: the ledger on one side, the books on the other. */
class Ledger {
  readonly books: Books;
  private readonly asks: BookAsk[];
  private readonly tenantId = randomUUID();
  private readonly ticket = database.ticket(this.tenantId);
  /** Ids of the holds, as the books count them. */
  private readonly ids: string[] = [];

  constructor(books: Books, asks: BookAsk[]) {
    this.books = books;
    this.asks = asks;
  }

  private async rows(name: string, text: string, values: unknown[] = []): Promise<Row[]> {
    return (await client.query({ name, text, values })).rows;
  }

  async begin(): Promise<void> {
    const budgets = this.books.budgets.map((each) => ({ ...each, limit: each.limit?.toString() ?? null }));
    await this.rows(
      "begin",
      `with tenant as (insert into app.tenants (tenant_id, name) values ($1::uuid, $1::uuid::text))
       insert into app.llm_budgets (tenant_id, scope, scope_id, period, limit_nanousd, unlimited)
       select $1, b.scope, b."scopeId", b.period, b.limit, b.limit is null
       from jsonb_to_recordset($2) as b (scope text, "scopeId" text, period text, "limit" bigint)`,
      [this.tenantId, JSON.stringify(budgets)],
    );
    for (const [model, its] of this.books.prices) await this.setPrice(model, its);
  }

  private async setPrice(model: string, { input, cached, output, reasoning }: Rates): Promise<void> {
    const [at] = await this.rows(
      "price end",
      `with ended as (
         update app.llm_prices set valid = tstzrange(lower(valid), clock_timestamp())
         where provider = 'p' and model = $1 and upper_inf(valid) returning upper(valid) as at)
       select coalesce(max(at), clock_timestamp())::text as at from ended`,
      [model],
    );
    await this.rows(
      "price",
      `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
       select 'p', $1, u.unit, u.nano::numeric / 1000, tstzrange($2, null), 'test'
       from unnest($3::text[], $4::bigint[]) as u (unit, nano) where u.nano is not null`,
      [
        model,
        at!["at"],
        ["input", "cached_input", "output", "reasoning"],
        [input, cached, output, reasoning],
      ],
    );
  }

  private async setFactor(factor: bigint): Promise<void> {
    const [at] = await this.rows(
      "factor end",
      `with ended as (
         update app.llm_price_overrides set valid = tstzrange(lower(valid), clock_timestamp())
         where tenant_id = $1 and upper_inf(valid) returning upper(valid) as at)
       select coalesce(max(at), clock_timestamp())::text as at from ended`,
      [this.tenantId],
    );
    await this.rows(
      "factor",
      "insert into app.llm_price_overrides (tenant_id, provider, factor, valid) values ($1, 'p', $2, tstzrange($3, null))",
      [this.tenantId, Number(factor) / 1_000, at!["at"]],
    );
  }

  /** Every counter that is not zero, as the books tell them. */
  async counters(): Promise<string[]> {
    const rows = await this.rows(
      "counters",
      `select b.scope, b.scope_id, b.period, p.reserved_nanousd, p.presumed_nanousd, p.spent_nanousd
       from app.llm_budget_periods as p
       join app.llm_budgets as b on b.tenant_id = p.tenant_id and b.id = p.budget_id
       where p.tenant_id = $1 and greatest(p.reserved_nanousd, p.presumed_nanousd, p.spent_nanousd) > 0
       order by p.period_start`,
      [this.tenantId],
    );
    const of = ({ scope, scopeId, period }: BookBudget) =>
      rows.filter((row) => row["scope"] === scope && row["scope_id"] === scopeId && row["period"] === period);
    return this.books.budgets.flatMap(of).map((row) => Object.values(row).join(" "));
  }

  async reserve(asks: BookAsk[]): Promise<Answer[]> {
    const rows = await this.rows("reserve", "select * from app.llm_reserve_many($1, $2, $3)", [
      this.tenantId,
      this.ticket,
      JSON.stringify(
        asks.map(({ key, model, input, output, atLeast, user, apiKey, tags, lapses }) => ({
          idempotency_key: key,
          provider: "p",
          model,
          input_tokens_bound: input,
          max_output_tokens: output,
          min_output_tokens: atLeast,
          user_id: user,
          api_key: apiKey,
          tags,
          ttl_ms: lapses ? 0 : 3_600_000,
        })),
      ),
    ]);
    return rows.map((row) => {
      if (row["refusal"] !== null) return { refusal: row["refusal"] };
      if (!this.ids.includes(row["id"])) this.ids.push(row["id"]);
      return {
        refusal: null,
        hold: this.ids.indexOf(row["id"]),
        status: row["status"],
        amount: BigInt(row["estimated_cost_nanousd"]),
        granted: BigInt(row["max_output_tokens"]),
        replayed: row["replayed"],
      };
    });
  }

  async settle(settles: BookSettle[]): Promise<Answer[]> {
    const rows = await this.rows("settle", "select * from app.llm_settle_many($1, $2, $3)", [
      this.tenantId,
      this.ticket,
      JSON.stringify(
        settles.map(({ nth: at, used, final, source }) => ({
          reservation_id: this.id(at),
          input_tokens: used.input,
          cached_input_tokens: used.cached,
          output_tokens: used.output,
          reasoning_tokens: used.reasoning,
          final,
          source,
        })),
      ),
    ]);
    return rows.map((row) =>
      row["refusal"] !== null
        ? { refusal: row["refusal"] }
        : {
            refusal: null,
            status: row["status"],
            amount: BigInt(row["cost_nanousd"]),
            over: BigInt(row["over_hold_nanousd"]),
          },
    );
  }

  private id(at: number): string {
    return this.ids[at] ?? "00000000-0000-7000-8000-000000000000";
  }

  /** A call that raises where it refuses. */
  private async ended(name: string, text: string, values: unknown[]): Promise<Answer> {
    await client.query("savepoint before");
    try {
      const [row] = await this.rows(name, text, values);
      return { refusal: null, status: row!["status"] };
    } catch (error) {
      await client.query("rollback to before");
      return { refusal: (error as Error).message };
    }
  }

  private ofTenant(name: string, rest: string, at: number): Promise<Answer> {
    const values = [this.tenantId, this.ticket, this.id(at)];
    return this.ended(name, `select * from app.${name}($1, $2, $3, ${rest})`, values);
  }

  release = (at: number) => this.ofTenant("llm_release", "'never sent'", at);
  presume = (at: number) => this.ofTenant("llm_presume", "'no answer'", at);
  extend = (at: number) => this.ofTenant("llm_extend", "'1 hour'", at);
  writeOff = (at: number) =>
    this.ended("write off", "select * from ops.llm_write_off($1, 'test')", [this.id(at)]);

  async expire(): Promise<number[]> {
    const rows = await this.rows("expire", "select reservation_id as id from app.llm_expire()");
    return rows.map((row) => this.ids.indexOf(row["id"])).sort();
  }

  async resolve(): Promise<string[]> {
    const rows = await this.rows("resolve", "select * from app.llm_presumed_resolve()");
    return rows.map((row) => `${this.ids.indexOf(row["reservation_id"])} ${row["status"]}`).sort();
  }

  private async move(column: "expires_at" | "presumed_at", at: number): Promise<void> {
    await this.rows(
      column,
      `update app.llm_reservations set ${column} = ${column} - interval '2 hours' where tenant_id = $1 and id = $2`,
      [this.tenantId, this.id(at)],
    );
  }

  /** What was this month is a month of the past, further back than what comes after it. */
  private async monthPasses(): Promise<void> {
    await this.rows(
      "month",
      `with passed as (
         update app.llm_budget_periods as p
         set period_start = p.period_start - make_interval(years => $2), period_end = p.period_end - make_interval(years => $2)
         where p.tenant_id = $1 and p.period_start <> '-infinity' and p.period_end > clock_timestamp()
         returning p.budget_id, p.period_start + make_interval(years => $2) as was, p.period_start)
       update app.llm_reservation_budgets as h set period_start = p.period_start
       from passed as p where h.tenant_id = $1 and h.budget_id = p.budget_id and h.period_start = p.was`,
      // In steps of four years, for a 29 February is there each time.
      [this.tenantId, 4 * (20 - this.books.era)],
    );
    this.books.era += 1;
  }

  /** The place of the hold that is meant. */
  private meant(at: number): number {
    const { length } = this.books.holds;
    return at === NOBODY || length === 0 ? NOBODY : at % length;
  }

  /** Does one thing on both sides, and compares what they say. */
  async step(op: Operation): Promise<void> {
    const { books } = this;
    if ("nth" in op) op = { ...op, nth: this.meant(op.nth) };
    switch (op.kind) {
      case "reserve": {
        const asks = op.asks.map((at) => this.asks[at]!);
        return this.agree(op, await this.reserve(asks), books.reserve(asks).map(plain));
      }
      case "settle": {
        const settles = op.settles.map((each) => ({ ...each, nth: this.meant(each.nth) }));
        const told = await this.settle(settles);
        return this.agree(
          op,
          told,
          settles.map((each) => books.settle(each)),
        );
      }
      case "release":
      case "presume":
      case "extend":
        return this.agree(op, [await this[op.kind](op.nth)], [books[op.kind](op.nth)]);
      case "write_off":
        return this.agree(op, [await this.writeOff(op.nth)], [books.writeOff(op.nth)]);
      case "expire":
        return expect(await this.expire()).toEqual(books.expire().sort());
      case "resolve": {
        const resolved = await this.resolve();
        for (const each of resolved) meet(`resolve ${each.split(" ")[1]}`);
        return expect(resolved).toEqual(books.resolve().sort());
      }
      default:
        return this.change(op);
    }
  }

  private agree(op: Operation, told: Answer[], known: Answer[]): void {
    for (const { refusal, replayed, status } of told)
      meet(`${op.kind} ${refusal ?? (replayed ? "replayed" : status)}`);
    expect(told).toEqual(known);
  }

  /** What is changed without an answer. */
  private async change(op: Operation): Promise<void> {
    const { books } = this;
    if (op.kind === "lapse" || op.kind === "age") {
      const hold = books.holds[op.nth];
      if (op.kind === "lapse" && hold?.status === "RESERVED") {
        await this.move("expires_at", op.nth);
        hold.lapsed = true;
      }
      if (op.kind === "age" && hold?.status === "PRESUMED") {
        await this.move("presumed_at", op.nth);
        hold.old = true;
      }
    }
    if (op.kind === "month") await this.monthPasses();
    if (op.kind === "policy") {
      books.policy = op.policy;
      const after = op.policy === "release_after" ? "1 hour" : null;
      const text = "update app.tenants set presumed_policy = $2, presumed_after = $3 where tenant_id = $1";
      await this.rows("policy", text, [this.tenantId, op.policy, after]);
    }
    if (op.kind === "limit") {
      const budget = books.budgets[op.budget % books.budgets.length]!;
      budget.limit = inNano(op.limit);
      await this.rows(
        "limit",
        `update app.llm_budgets set limit_nanousd = $5::bigint, unlimited = $5::bigint is null
         where tenant_id = $1 and scope = $2 and scope_id = $3 and period = $4`,
        [this.tenantId, budget.scope, budget.scopeId, budget.period, budget.limit],
      );
    }
    if (op.kind === "price") {
      books.prices.set(op.model, op.rates);
      await this.setPrice(op.model, op.rates);
    }
    if (op.kind === "factor") {
      books.factor = BigInt(op.factor);
      await this.setFactor(books.factor);
    }
  }
}

/** Of a request that is refused only why. */
const plain = (answer: Answer): Answer => (answer.refusal === null ? answer : { refusal: answer.refusal });

async function live({ limits, budgets, asks, m1, m2, operations }: Life): Promise<void> {
  const books = new Books(
    budgets.map((at) => {
      const [scope, scopeId, period] = NAMES[at]!;
      return { scope, scopeId, period, limit: inNano(limits[at]!) };
    }),
    new Map([
      ["m1", m1],
      ["m2", m2],
    ]),
  );
  const ledger = new Ledger(books, asks);
  await client.query("begin");
  try {
    await ledger.begin();
    for (const op of operations) {
      await ledger.step(op);
      expect(await ledger.counters()).toEqual(books.counters());
    }
    const { rows } = await client.query({ name: "check", text: "select * from app.llm_check()" });
    expect(rows).toEqual([]);
  } finally {
    await client.query("rollback");
  }
}

test(`${SEQUENCES} random lives of a ledger are as the books have them`, { timeout: 600_000 }, async () => {
  console.info(`money model: SEED=${SEED}`);
  await fc.assert(fc.asyncProperty(life, live), { seed: SEED, numRuns: SEQUENCES });
  if (SEQUENCES < 200) return;
  const refusals = ["reservation_closed", "reservation_not_found"];
  for (const name of [
    ...[
      "RESERVED",
      "replayed",
      "budget_exceeded",
      "no_price",
      "idempotency_conflict",
      "reservation_invalid",
    ].map((each) => `reserve ${each}`),
    ...["RESERVED", "PRESUMED", "APPLIED", "WRITTEN_OFF", "reservation_invalid", ...refusals].map(
      (each) => `settle ${each}`,
    ),
    ...["RELEASED", ...refusals].map((each) => `release ${each}`),
    ...["PRESUMED", ...refusals].map((each) => `presume ${each}`),
    ...["RESERVED", ...refusals].map((each) => `extend ${each}`),
    ...["WRITTEN_OFF", ...refusals].map((each) => `write_off ${each}`),
    ...["WRITTEN_OFF", "APPLIED"].map((each) => `resolve ${each}`),
  ])
    expect(met.get(name) ?? 0, `${name}: ${JSON.stringify([...met])}`).toBeGreaterThan(0);
});
