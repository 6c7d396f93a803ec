// Many connections at the same counters: never more than the limit, never a deadlock, and one effect of what comes twice.
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createPool } from "../../src/db.ts";
import { randomFrom } from "../../src/sample/random.ts";
import { as, type Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ask, holdsOf } from "../support/holds.ts";
import { ledgerOf } from "../support/ledger.ts";

const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const SECONDS = Number(process.env["MONEY_SECONDS"] ?? 10);

const database = testDatabase();
const ledger = ledgerOf(database);
const holds = holdsOf(database);
/** A connection for each caller: none waits for another but inside of the database. */
let pool: pg.Pool;

beforeAll(async () => {
  console.info(`money races: SEED=${SEED}`);
  await ledger.setPrices();
  const connectionString = database.url("holdfast_service");
  pool = createPool({ connectionString, application_name: "test", max: 150 });
});
afterAll(() => pool.end());

/** A call of many with the lock timeout of the call. */
const many = (name: string, tenantId: string, list: unknown[]): Promise<Row[]> =>
  as(
    { ...database.service, pool },
    tenantId,
    `select * from app.${name}($1, $2, $3, lock_timeout_ms => 30000)`,
    [JSON.stringify(list)],
  );

/** A call by the id of a hold: its status, or the name of the refusal. */
const end = (name: string, tenantId: string, id: string): Promise<string> =>
  as({ ...database.service, pool }, tenantId, `select status from app.${name}($1, $2, $3, $4)`, [
    id,
    name === "llm_extend" ? "1 minute" : "test",
  ]).then(
    ([row]) => row!["status"],
    (error: { code: string }) => error.code,
  );

const times = <T>(count: number, make: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => make(index));

async function deadlocks(): Promise<number> {
  // What a session has counted is told when it is idle for a second.
  const { rows } = await database.superuser.query(
    "select deadlocks::int as n, pg_stat_clear_snapshot() from pg_stat_database where datname = current_database()",
  );
  return rows[0].n;
}

describe("200 callers and money for 50 calls", () => {
  test("one call each: exactly 50 are held, the others are told why, and no counter passes the limit", async () => {
    const { tenantId } = await holds.tenantWith({ limit: 50_000_000 });
    const rows = (await Promise.all(times(200, () => many("llm_reserve_many", tenantId, [ask()])))).flat();
    expect(rows.filter(({ status }) => status === "RESERVED")).toHaveLength(50);
    expect(rows.filter(({ refusal }) => refusal === "budget_exceeded")).toHaveLength(150);
    expect(await holds.counters(tenantId)).toEqual([
      { budget: "tenant month", reserved: 50_000_000, presumed: 0, spent: 0 },
    ]);
    expect(await ledger.holdCount(tenantId)).toBe(50);
    await holds.sound();
  });

  test("in batches, and with calls that settle at their worst: what is spent is the limit", async () => {
    const { tenantId } = await holds.tenantWith({ limit: 50_000_000 });
    const rows = (
      await Promise.all(
        times(40, async () => {
          const held = await many(
            "llm_reserve_many",
            tenantId,
            times(5, () => ask()),
          );
          const settles = held.flatMap(({ id }) =>
            id === null ? [] : [{ reservation_id: id, input_tokens: 500, output_tokens: 250 }],
          );
          if (settles.length > 0) await many("llm_settle_many", tenantId, settles);
          return held;
        }),
      )
    ).flat();
    expect(rows.filter(({ refusal }) => refusal === null)).toHaveLength(50);
    expect(await holds.counters(tenantId)).toMatchObject([{ reserved: 0, spent: 50_000_000 }]);
    await holds.sound();
  });

  test("clamped, the last one takes what is left, to the last nano-USD", async () => {
    const { tenantId } = await holds.tenantWith({ limit: 50_300_000 });
    const clamped = () => ask({ input_tokens_bound: 0, max_output_tokens: 500, min_output_tokens: 1 });
    const rows = (
      await Promise.all(times(200, () => many("llm_reserve_many", tenantId, [clamped()])))
    ).flat();
    const held = rows
      .filter(({ refusal }) => refusal === null)
      .map((row) => Number(row["max_output_tokens"]));
    expect(held.sort((a, b) => a - b)).toEqual([150, ...times(50, () => 500)]);
    expect(await holds.counters(tenantId)).toMatchObject([{ reserved: 50_300_000 }]);
    await holds.sound();
  });

  test("under five budgets, where each is the tightest for some: held in all of its own or in none", async () => {
    const { tenantId } = await holds.tenantWith(
      { limit: 50_000_000 },
      { scope: "user", scopeId: "u0", limit: 7_000_000, period: "day" },
      { scope: "user", scopeId: "u1", limit: 9_000_000, period: "total" },
      { scope: "tag", scopeId: "t", limit: 11_000_000, period: "week" },
      { scope: "api_key", scopeId: "k", limit: 20_000_000 },
    );
    const asked = (n: number) =>
      ask({ user_id: `u${n % 3}`, api_key: n % 2 === 0 ? "k" : "other", tags: n % 5 === 0 ? ["t"] : [] });
    await Promise.all(times(200, (n) => many("llm_reserve_many", tenantId, [asked(n)])));
    const reserved = Object.fromEntries(
      (await holds.counters(tenantId)).map((each) => [each.budget, each.reserved]),
    );
    // Others than the tight ones are enough to fill the tenant's.
    expect(reserved).toMatchObject({ "tenant month": 50_000_000 });
    expect(reserved["user u0 day"]).toBeLessThanOrEqual(7_000_000);
    expect(reserved["user u1 total"]).toBeLessThanOrEqual(9_000_000);
    expect(reserved["tag t week"]).toBeLessThanOrEqual(11_000_000);
    expect(reserved["api_key k month"]).toBeLessThanOrEqual(20_000_000);
    await holds.sound();
  });
});

describe("what comes twice", () => {
  test("1,000 deliveries of reserve, settle and release in random order have one effect each", async () => {
    const random = randomFrom(SEED).uniform;
    const { tenantId } = await holds.tenantWith({ limit: 100_000_000 });
    const asks = times(10, (n) => ask({ idempotency_key: `k${n}`, input_tokens_bound: 100 * (n + 1) }));
    const first = await many("llm_reserve_many", tenantId, asks);
    const ids = first.map((row) => row["id"] as string);
    const used = (n: number) => ({ reservation_id: ids[n], input_tokens: 10 * (n + 1), output_tokens: 0 });
    const settled = new Set<string>();
    const deliveries = times(1_000, () => {
      const n = Math.floor(random() * 10);
      const kind = Math.floor(random() * 3);
      return async () => {
        if (kind === 0) {
          const [row] = await many("llm_reserve_many", tenantId, [asks[n]!]);
          expect(row).toMatchObject({ id: ids[n], replayed: true, refusal: null });
        } else if (kind === 1) {
          const [row] = await many("llm_settle_many", tenantId, [used(n)]);
          // The first of settle and release has the hold, and says the same from then on.
          if (row!["refusal"] === null) {
            expect(row).toMatchObject({ status: "APPLIED", cost_nanousd: String(10_000 * (n + 1)) });
            settled.add(ids[n]!);
          } else expect(row).toMatchObject({ refusal: "reservation_closed", detail: { status: "RELEASED" } });
        } else {
          expect(["RELEASED", "reservation_closed"]).toContain(await end("llm_release", tenantId, ids[n]!));
        }
      };
    });
    await Promise.all(deliveries.map((deliver) => deliver()));

    const { rows } = await database.superuser.query(
      `select r.id, r.status, r.settled_nanousd::int as settled,
              (select count(*)::int from app.llm_usage as u where u.reservation_id = r.id) as usages
       from app.llm_reservations as r where r.tenant_id = $1`,
      [tenantId],
    );
    expect(rows).toHaveLength(10);
    let spent = 0;
    for (const row of rows) {
      const n = ids.indexOf(row.id);
      const cost = settled.has(row.id) ? 10_000 * (n + 1) : 0;
      expect(row).toMatchObject(
        settled.has(row.id)
          ? { status: "APPLIED", settled: cost, usages: 1 }
          : { status: "RELEASED", settled: 0, usages: 0 },
      );
      spent += cost;
    }
    expect(await holds.counters(tenantId)).toEqual([
      { budget: "tenant month", reserved: 0, presumed: 0, spent },
    ]);
    expect(await ledger.holdCount(tenantId)).toBe(10);
    await holds.sound();
  });

  test("a guess that is delivered often hears the truth all the same, once", async () => {
    const { tenantId } = await holds.tenantWith({ limit: 100_000_000 });
    const [{ id }] = (await many("llm_reserve_many", tenantId, [ask()])) as [{ id: string }];
    const deliver = (input_tokens: number, source: string) =>
      Promise.all(
        times(50, () =>
          many("llm_settle_many", tenantId, [{ reservation_id: id, input_tokens, output_tokens: 0, source }]),
        ),
      );
    const guesses = (await deliver(300, "estimated")).flat();
    expect(new Set(guesses.map((row) => row["cost_nanousd"]))).toEqual(new Set(["300000"]));
    const truths = (await deliver(400, "provider")).flat();
    expect(new Set(truths.map((row) => row["cost_nanousd"]))).toEqual(new Set(["400000"]));
    expect(
      (
        await many("llm_settle_many", tenantId, [{ reservation_id: id, input_tokens: 500, output_tokens: 0 }])
      )[0],
    ).toMatchObject({ refusal: "reservation_closed" });
    expect((await ledger.usage(id)).map((row) => [row["status"], row["cost_nanousd"]]).sort()).toEqual([
      ["ADJUSTED", "100000"],
      ["SETTLED", "300000"],
    ]);
    expect(await holds.counters(tenantId)).toMatchObject([{ reserved: 0, spent: 400_000 }]);
    await holds.sound();
  });
});

describe("a hunt for deadlocks", () => {
  const SCOPES = 4;
  /** Some of the users, keys and tags of a tenant, in whatever order. */
  const someAsk = (random: () => number) => {
    const pick = () => Math.floor(random() * SCOPES);
    const tags = times(Math.floor(random() * 4), () => `t${pick()}`);
    return ask({
      user_id: random() < 0.7 ? `u${pick()}` : null,
      api_key: random() < 0.7 ? `k${pick()}` : null,
      tags,
      model: "m",
      input_tokens_bound: Math.floor(random() * 100),
      max_output_tokens: Math.floor(random() * 50),
      ttl_ms: random() < 0.2 ? 0 : 60_000,
    });
  };

  async function hotTenant(random: () => number): Promise<string> {
    const periods = ["day", "week", "month", "total"];
    const period = () => periods[Math.floor(random() * periods.length)]!;
    const limit = () => 1_000_000 + Math.floor(random() * 20_000_000);
    const named = (scope: string, letter: string) =>
      times(SCOPES, (n) => ({ scope, scopeId: `${letter}${n}`, period: period(), limit: limit() }));
    const { tenantId } = await holds.tenantWith(
      { limit: 60_000_000 },
      { limit: 300_000_000, period: "total" },
      { scope: "model", scopeId: "p/m", limit: 90_000_000, period: period() },
      ...named("user", "u"),
      ...named("api_key", "k"),
      ...named("tag", "t"),
    );
    const policy = [
      ["hold", null],
      ["release_after", "1 minute"],
    ][Math.floor(random() * 2)]!;
    await database.superuser.query(
      "update app.tenants set presumed_policy = $2, presumed_after = $3 where tenant_id = $1",
      [tenantId, ...policy],
    );
    return tenantId;
  }

  test(`32 clients with random sets of budgets for ${SECONDS} s: none, and the books are sound`, {
    timeout: 1e6,
  }, async () => {
    const random = randomFrom(SEED).uniform;
    const tenants = [await hotTenant(random), await hotTenant(random), await hotTenant(random)];
    const before = await deadlocks();
    const until = Date.now() + SECONDS * 1_000;
    const said = new Map<string, number>();
    const say = (what: string) => said.set(what, (said.get(what) ?? 0) + 1);

    async function client(seed: number): Promise<void> {
      const mine = randomFrom(seed).uniform;
      const open: [tenantId: string, id: string][] = [];
      while (Date.now() < until) {
        const tenantId = tenants[Math.floor(mine() ** 2 * tenants.length)]!;
        const what = mine();
        if (what < 0.35 || open.length === 0) {
          const asks = times(1 + Math.floor(mine() * 8), () => someAsk(mine));
          for (const row of await many("llm_reserve_many", tenantId, asks)) {
            say(row["refusal"] ?? "held");
            if (row["id"] !== null) open.push([tenantId, row["id"]]);
          }
        } else if (what < 0.7) {
          // A batch of one tenant's, some of them in two parts.
          const some = open.filter(([whose]) => whose === tenantId).slice(0, 1 + Math.floor(mine() * 6));
          if (some.length === 0) continue;
          const settles = some.flatMap(([, id]) => {
            const used = { reservation_id: id, input_tokens: Math.floor(mine() * 60), output_tokens: 1 };
            const part = { ...used, input_tokens: mine() < 0.5 ? 0 : 5, final: false };
            return mine() < 0.5 ? [part, used] : [used];
          });
          for (const row of await many(
            "llm_settle_many",
            tenantId,
            settles.sort(() => mine() - 0.5),
          ))
            say(row["refusal"] ?? `settled ${row["status"]}`);
          for (const each of some) if (mine() < 0.8) open.splice(open.indexOf(each), 1);
        } else if (what < 0.94) {
          const [whose, id] = open.splice(Math.floor(mine() * open.length), 1)[0]!;
          const name = ["llm_release", "llm_presume", "llm_extend"][Math.floor(mine() * 3)]!;
          say(`${name} ${await end(name, whose, id)}`);
          if (name === "llm_presume" && mine() < 0.5)
            await database.ops.query("select ops.llm_write_off($1, 'test')", [id]).catch((error: Error) => {
              expect(error.message).toBe("reservation_closed");
            });
        } else if (what < 0.97) {
          say(`swept ${(await holds.expire()).length > 0}`);
        } else {
          await database.superuser.query(
            "update app.llm_reservations set presumed_at = presumed_at - interval '1 hour' where id in (select id from app.llm_reservations where status = 'PRESUMED' order by id limit 20 for no key update skip locked)",
          );
          say(`resolved ${(await holds.resolve()).length > 0}`);
        }
      }
    }
    await Promise.all(times(32, (n) => client(SEED + n)));
    await new Promise((done) => setTimeout(done, 1_500));
    expect((await deadlocks()) - before, JSON.stringify([...said])).toBe(0);
    await holds.sound();
    // A hunt in which nothing was met proves nothing.
    for (const what of [
      "held",
      "budget_exceeded",
      "settled APPLIED",
      "llm_presume PRESUMED",
      "swept true",
      "resolved true",
    ])
      expect(said.get(what) ?? 0, `${what}: ${JSON.stringify([...said])}`).toBeGreaterThan(0);
    const { rows } = await database.superuser.query(
      `select b.scope, b.scope_id, p.* from app.llm_budget_periods as p
       join app.llm_budgets as b on b.tenant_id = p.tenant_id and b.id = p.budget_id
       where p.tenant_id = any ($1) and p.reserved_nanousd + p.presumed_nanousd > b.limit_nanousd`,
      [tenants],
    );
    expect(rows).toEqual([]);
  });
});
