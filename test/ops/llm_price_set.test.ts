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

describe("more than input and output", () => {
  /** What is set of `m`, by name; gives `[unit, before, after]`. */
  async function named(args: string, input = 1, output = 2): Promise<unknown[]> {
    const text = `select * from ops.llm_price_set($1, 'm', $2, $3, reason => 'price list', ${args})`;
    const { rows: set } = await database.ops.query(text, [provider, input, output]);
    return set.map((each) => [each.unit, each.before_usd_per_million, each.after_usd_per_million]);
  }
  /** `[service tier, lengths, unit, price]` of what is believed of now. */
  const believed = async () =>
    (
      await rows(
        `select service_tier, prompt_tokens::text as lengths, unit, usd_per_million as usd from app.llm_prices
         where provider = $1 and valid @> now() and corrected_at = 'infinity' order by service_tier, prompt_tokens, unit`,
        [provider],
      )
    ).map((each) => [each["service_tier"], each["lengths"], each["unit"], each["usd"]]);

  test("every unit", async () => {
    expect(
      await named(
        `cached_input_usd_per_million => 0.1, cache_write_5m_usd_per_million => 1.25,
         cache_write_1h_usd_per_million => 2.5, reasoning_usd_per_million => 3, request_usd_per_million => 5000,
         image_usd_per_million => 1000000000, tool_call_usd_per_million => 10000`,
      ),
    ).toEqual([
      ["input", null, "1"],
      ["cached_input", null, "0.1"],
      ["cache_write_5m", null, "1.25"],
      ["cache_write_1h", null, "2.5"],
      ["output", null, "2"],
      ["reasoning", null, "3"],
      ["request", null, "5000"],
      ["image", null, "1000000000"],
      ["tool_call", null, "10000"],
    ]);
    expect(await believed()).toHaveLength(9);
    expect(await named("dry_run => false")).toHaveLength(9); // seven of them end
    expect(await believed()).toHaveLength(2);
  });

  test("a service tier has prices of its own", async () => {
    await named("service_tier => 'standard'");
    await named("service_tier => 'flex'", 0.5, 1);
    expect(await believed()).toEqual([
      ["flex", "[0,)", "input", "0.5"],
      ["flex", "[0,)", "output", "1"],
      ["standard", "[0,)", "input", "1"],
      ["standard", "[0,)", "output", "2"],
    ]);
    expect((await audits()).map((each) => each["after"])).toEqual([
      { input: 1, output: 2 },
      { input: 0.5, output: 1, service_tier: "flex" },
    ]);
  });

  test("prompts of some length have prices of their own; the others keep theirs", async () => {
    await named("cached_input_usd_per_million => 0.1");
    expect(await named("prompt_tokens_from => 200001", 2, 3)).toEqual([
      ["input", "1", "2"],
      ["cached_input", "0.1", null],
      ["output", "2", "3"],
    ]);
    await named("prompt_tokens_from => 100, prompt_tokens_below => 200", 7, 8);
    const inputs = async () =>
      (await believed()).filter(([, , unit]) => unit === "input").map(([, ...rest]) => rest);
    expect(await inputs()).toEqual([
      ["[0,100)", "input", "1"],
      ["[100,200)", "input", "7"],
      ["[200,200001)", "input", "1"],
      ["[200001,)", "input", "2"],
    ]);
    await named("dry_run => false", 4, 4);
    expect(await inputs()).toEqual([["[0,)", "input", "4"]]);
  });

  test("what was announced for later no longer stands", async () => {
    await named("dry_run => false");
    await rows(
      `with ended as (update app.llm_prices set valid = tstzrange(lower(valid), now() + interval '1 day')
         where provider = $1 returning *)
       insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
       select provider, model, unit, 9, tstzrange(upper(valid), null), 'a list' from ended`,
      [provider],
    );
    await named("dry_run => false", 3);
    const [later] = await rows(
      `select count(*)::int as n, max(usd_per_million) as usd from app.llm_prices where provider = $1
         and unit = 'input' and valid @> now() + interval '2 days' and corrected_at = 'infinity'`,
      [provider],
    );
    expect(later).toEqual({ n: 1, usd: "3" });
  });

  test("a correction says that it was always wrong; holds keep what they were made with", async () => {
    const { tenantId } = await database.addTenant();
    await named("cached_input_usd_per_million => 0.1");
    const since = (
      await rows("select min(lower(valid))::text as since from app.llm_prices where provider = $1", [
        provider,
      ])
    )[0];
    const held = await ledger.reserve(tenantId, { provider });
    expect(await named("request_usd_per_million => 7, correct => true", 10)).toEqual([
      ["input", "1", "10"],
      ["cached_input", "0.1", null],
      ["output", "2", "2"],
      ["request", null, "7"],
    ]);
    const versions = await rows(
      `select unit, usd_per_million as usd, corrected_at <> 'infinity' as corrected, upper_inf(valid) as stands,
              lower(valid)::text = $2 as since from app.llm_prices where provider = $1 order by known_at, unit`,
      [provider, since!["since"]],
    );
    expect(versions).toEqual([
      ...[
        ["cached_input", "0.1"],
        ["input", "1"],
        ["output", "2"],
      ].map(([unit, usd]) => ({
        ...{ unit, usd, corrected: true, stands: true, since: true },
      })),
      ...[
        ["input", "10"],
        ["output", "2"],
        ["request", "7"],
      ].map(([unit, usd]) => ({
        ...{ unit, usd, corrected: false, stands: true, since: true },
      })),
    ]);
    // 500 x 1,000 + 250 x 2,000 as it was held; 500 x 10,000 + 250 x 2,000 + 7,000 as it is known now.
    expect(await ledger.settle(tenantId, held["id"], 500, 250)).toMatchObject({ cost_nanousd: "1000000" });
    expect(await ledger.reserve(tenantId, { provider })).toMatchObject({ estimated_cost_nanousd: "5507000" });
    expect((await audits()).at(-1)?.["after"]).toEqual({ input: 10, output: 2, request: 7, correct: true });
  });

  test("a correction leaves what was before its version, and what is announced", async () => {
    await named("dry_run => false", 1);
    await named("dry_run => false", 2);
    await named("correct => true", 3);
    expect(
      (await prices())
        .filter((each) => each["unit"] === "input")
        .map((each) => [each["usd_per_million"], each["stands"]]),
    ).toEqual([
      ["1", false],
      ["2", true],
      ["3", true],
    ]);
    const [past] = await rows(
      `select usd_per_million as usd from app.llm_prices where provider = $1 and unit = 'input' and not upper_inf(valid)
         and corrected_at = 'infinity'`,
      [provider],
    );
    expect(past).toEqual({ usd: "1" });
  });

  test("a correction replaces each unit for as long as that one was to apply", async () => {
    const load = (input: number) =>
      database.ops.query("select ops.llm_prices_load($1, 'a list', 'test')", [
        JSON.stringify([
          { provider, model: "m", unit: "input", usd_per_million: input },
          { provider, model: "m", unit: "output", usd_per_million: 2 },
        ]),
      ]);
    await load(1);
    await load(3); // input is of now, output of ever
    await named("correct => true", 4, 5);
    const yesterday = await rows(
      `select unit, usd_per_million as usd from app.llm_prices
       where provider = $1 and valid @> now() - interval '1 day' and corrected_at = 'infinity' order by unit`,
      [provider],
    );
    expect(yesterday).toEqual([
      { unit: "input", usd: "1" },
      { unit: "output", usd: "5" },
    ]);
    expect((await believed()).map(([, , unit, usd]) => [unit, usd])).toEqual([
      ["input", "4"],
      ["output", "5"],
    ]);
  });

  test.each([
    ["a correction of nothing", "correct => true"],
    ["a first price of long prompts alone", "prompt_tokens_from => 1"],
    ["a first price of short prompts alone", "prompt_tokens_below => 9"],
    ["lengths that are none", "prompt_tokens_from => 9, prompt_tokens_below => 9"],
    ["a negative length", "prompt_tokens_from => -1"],
    ["no length", "prompt_tokens_from => null"],
    ["a tier that is not known", "service_tier => 'fast'"],
    ["no tier", "service_tier => null"],
    ["a cache write that is too dear", "cache_write_5m_usd_per_million => 100001"],
    ["a negative hour in a cache", "cache_write_1h_usd_per_million => -1"],
    ["reasoning that is NaN", "reasoning_usd_per_million => 'NaN'"],
    ["a request that is too dear", "request_usd_per_million => 1000000001"],
    ["a negative image", "image_usd_per_million => -1"],
    ["an endless tool call", "tool_call_usd_per_million => 'Infinity'"],
  ])("it refuses %s", async (_, args) => {
    expect(await raised(named(args))).toMatchObject({ name: "argument_invalid", sqlstate: "OP102" });
    expect(await raised(named(`${args}, dry_run => true`))).toMatchObject({ name: "argument_invalid" });
    expect([await prices(), await audits()]).toEqual([[], []]);
  });
});

test("at any moment there is one price, however many set it at once", async () => {
  await set();
  const outcomes = await Promise.allSettled(
    Array.from({ length: 8 }, (_, i) => set({ input: String(i + 1) })),
  );
  expect(outcomes.map(({ status }) => status)).toEqual(Array(8).fill("fulfilled"));
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
