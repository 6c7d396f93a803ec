// sql/ops/llm_price_set.sql: a person says what a model costs from now on.
import { randomUUID } from "node:crypto";
import { beforeEach, describe, expect, test } from "vitest";
import { type Row, raised, refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let provider = "";

beforeEach(() => {
  provider = `p-${randomUUID()}`;
});

type Asked = {
  provider?: unknown;
  model?: unknown;
  input?: unknown;
  output?: unknown;
  cached?: unknown;
  reason?: unknown;
  dryRun?: unknown;
};

const set = async (asked: Asked = {}): Promise<Row[]> => {
  const {
    provider: by = provider,
    model = "m",
    input = "1",
    output = "2",
    cached = null,
    reason = "price list",
    dryRun = false,
  } = asked;
  const text =
    "select * from ops.llm_price_set($1, $2, $3, $4, $5, cached_input_usd_per_million => $6, dry_run => $7) order by unit";
  return (await database.ops.query(text, [by, model, input, output, reason, cached, dryRun])).rows;
};

const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];
const prices = () =>
  rows(
    `select unit, usd_per_million, upper_inf(valid) as stands, simulated, source from app.llm_prices
     where provider = $1 order by unit, lower(valid)`,
    [provider],
  );
const audits = () =>
  rows("select actor, action, reason, after from ops.audit_log where subject = $1 order by id", [
    `${provider}/m`,
  ]);

describe("it works", () => {
  test("a model that had no price has one, and is no longer refused", async () => {
    const { tenantId } = await database.addTenant();
    await refusal(ledger.reserve(tenantId, { provider }), "no_price");
    expect(await set({ cached: "0.1" })).toEqual([
      { unit: "cached_input", before_usd_per_million: null, after_usd_per_million: "0.1" },
      { unit: "input", before_usd_per_million: null, after_usd_per_million: "1" },
      { unit: "output", before_usd_per_million: null, after_usd_per_million: "2" },
    ]);
    expect(await ledger.reserve(tenantId, { provider })).toMatchObject({ estimated_cost_nanousd: "1000000" });
    expect(await prices()).toMatchObject([
      { unit: "cached_input", stands: true, simulated: false, source: "ops: holdfast_ops" },
      { unit: "input", stands: true },
      { unit: "output", stands: true },
    ]);
    expect(await audits()).toMatchObject([
      {
        actor: "holdfast_ops",
        action: "llm_price_set",
        reason: "price list",
        after: { input: 1, cached_input: 0.1, output: 2 },
      },
    ]);
  });

  test("the versions before end where the new ones begin; one of cached input that is not said is gone", async () => {
    await set({ cached: "0.1" });
    expect(await set({ input: "3" })).toEqual([
      { unit: "cached_input", before_usd_per_million: "0.1", after_usd_per_million: null },
      { unit: "input", before_usd_per_million: "1", after_usd_per_million: "3" },
      { unit: "output", before_usd_per_million: "2", after_usd_per_million: "2" },
    ]);
    expect((await prices()).map((each) => [each["unit"], each["usd_per_million"], each["stands"]])).toEqual([
      ["cached_input", "0.1", false],
      ["input", "1", false],
      ["input", "3", true],
      ["output", "2", false],
      ["output", "2", true],
    ]);
    const [gap] = await rows(
      `select count(*)::int as n from app.llm_prices as a join app.llm_prices as b
         on b.provider = a.provider and b.unit = a.unit and lower(b.valid) = upper(a.valid) where a.provider = $1`,
      [provider],
    );
    expect(gap).toEqual({ n: 2 });
  });

  test("a dry run shows the same and changes nothing", async () => {
    await set();
    const before = [await prices(), await audits()];
    const dry = await set({ input: "5", output: "6", dryRun: true });
    expect([await prices(), await audits()]).toEqual(before);
    expect(await set({ input: "5", output: "6" })).toEqual(dry);
  });

  test("free, dear, and exact prices", async () => {
    await set({ input: "0", output: "0", cached: "0" });
    await set({ input: "100000", output: "100000" });
    await set({ input: "0.0000001234", output: "0.1" });
    expect((await prices()).find((each) => each["unit"] === "input" && each["stands"])).toMatchObject({
      usd_per_million: "0.0000001234",
    });
  });

  test("another model of the provider keeps its price", async () => {
    await set();
    await set({ model: "other", input: "9" });
    expect(
      (await prices())
        .filter((each) => each["unit"] === "input")
        .map((each) => [each["usd_per_million"], each["stands"]]),
    ).toEqual([
      ["1", true],
      ["9", true],
    ]);
  });
});

test("at any moment there is one price, however many set it at once", async () => {
  await set();
  const outcomes = await Promise.allSettled(
    Array.from({ length: 8 }, (_, i) => set({ input: String(i + 1) })),
  );
  expect(outcomes.some((each) => each.status === "fulfilled")).toBe(true);
  const standing = (await prices()).filter((each) => each["stands"]);
  expect(standing.map((each) => each["unit"])).toEqual(["input", "output"]);
});

describe("it refuses, by name, and changes nothing", () => {
  test.each<[string, Asked]>([
    ["no provider", { provider: null }],
    ["an empty provider", { provider: "" }],
    ["a long provider", { provider: "x".repeat(201) }],
    ["no model", { model: null }],
    ["an empty model", { model: "" }],
    ["no input price", { input: null }],
    ["no output price", { output: null }],
    ["a negative price", { input: "-1" }],
    ["a price that is NaN", { output: "NaN" }],
    ["an endless price", { output: "Infinity" }],
    ["a price over 100,000", { input: "100000.01" }],
    ["a negative price of cached input", { cached: "-0.1" }],
    ["cached input dearer than input", { cached: "1.01" }],
    ["cached input that is NaN", { cached: "NaN" }],
  ])("%s", async (_, asked) => {
    await set();
    const before = [
      await prices(),
      await rows("select count(*) from app.llm_prices"),
      await rows("select count(*) from ops.audit_log"),
    ];
    expect(await raised(set(asked))).toMatchObject({ name: "argument_invalid", sqlstate: "OP102" });
    expect([
      await prices(),
      await rows("select count(*) from app.llm_prices"),
      await rows("select count(*) from ops.audit_log"),
    ]).toEqual(before);
  });

  test.each([null, "", "ab"])("the reason %j", async (reason) => {
    expect(await raised(set({ reason }))).toMatchObject({ name: "reason_required", sqlstate: "OP101" });
    expect(await prices()).toEqual([]);
  });
});

test("a stranger gets nothing: neither the service nor the worker sets prices", async () => {
  for (const { pool } of [database.service, database.worker]) {
    const called = pool.query("select ops.llm_price_set('offline', 'offline-analyst', 0, 0, 'free for all')");
    await expect(called).rejects.toMatchObject({ code: "42501" });
  }
});
