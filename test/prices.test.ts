// src/prices.ts and npm run prices:import: the package's data becomes a list that a person reviews.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { calcPrice, findProvider, type ModelInfo, type Provider } from "@pydantic/genai-prices";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { projectFile } from "../src/migrate.ts";
import {
  decimal,
  HOSTS,
  modelsOf,
  type PriceRow,
  priceRows,
  rowsOfSql,
  sqlOf,
  suspects,
} from "../src/prices.ts";
import { testDatabase } from "./support/database.ts";

const database = testDatabase();
const FILE = projectFile("sql/prices/genai_prices.sql");
const packaged = priceRows();

/** A provider of one model with these prices. */
function provider(prices: ModelInfo["prices"], more: Partial<ModelInfo> = {}, id = "openai"): Provider {
  const model: ModelInfo = { id: "m", match: { equals: "m" }, prices, ...more };
  return { id, name: id, api_pattern: "https://x", models: [model] };
}
/** `unit[from,below) usd [since,until)` of each row. */
const said = (rows: PriceRow[]) =>
  rows.map(
    (row) =>
      `${row.model} ${row.unit}[${row.promptTokensFrom},${row.promptTokensBelow ?? ""}) ${row.usdPerMillion} [${
        row.validFrom ?? ""
      },${row.validUntil ?? ""})`,
  );
const rowsOf = (prices: ModelInfo["prices"], more: Partial<ModelInfo> = {}, id = "openai") =>
  said(priceRows([provider(prices, more, id)]).rows);
const whySkipped = (prices: ModelInfo["prices"], more: Partial<ModelInfo> = {}, id = "openai") => {
  const { rows, skipped } = priceRows([provider(prices, more, id)]);
  return [rows.length, ...skipped.map(({ why }) => why)];
};

describe("the file", () => {
  test("is the one that the package of package-lock.json makes", () => {
    const { version } = JSON.parse(
      readFileSync(projectFile("node_modules/@pydantic/genai-prices/package.json"), "utf8"),
    );
    expect(sqlOf(packaged.rows, packaged.skipped, version)).toBe(readFileSync(FILE, "utf8"));
  });

  test("says each row so that it can be read again", () => {
    expect(rowsOfSql(sqlOf(packaged.rows, packaged.skipped, "1"))).toEqual(packaged.rows);
    const odd = [
      { ...packaged.rows[0]!, model: "it's (one), 'two'", validFrom: "2026-01-02", promptTokensBelow: 7 },
    ];
    expect(rowsOfSql(sqlOf(odd, [], "1"))).toEqual(odd);
  });

  test("has models of every provider, and is in order", () => {
    expect(new Set(packaged.rows.map((row) => row.provider))).toEqual(new Set(Object.values(HOSTS)));
    expect(modelsOf(packaged.rows)).toBeGreaterThan(600);
    const keys = packaged.rows.map((row) =>
      [row.provider, row.model, row.unit, row.validFrom ?? ""].join("\0"),
    );
    expect(keys).toEqual([...keys].sort());
    expect(priceRows()).toEqual(packaged);
  });

  test.each(Object.entries(HOSTS))("%s is billed by %s, as the source says", (id, host) => {
    const pattern = findProvider({ providerId: id })!.api_pattern;
    const url = `https://${host.replace("bedrock-runtime.", "bedrock-runtime.eu-west-1.")}/v1`;
    expect(url).toMatch(new RegExp(`^(?:${pattern})`));
  });

  test.each([
    ["api.openai.com", "gpt-4.1-mini", ["cached_input 0.1", "input 0.4", "output 1.6"]],
    [
      "api.anthropic.com",
      "claude-haiku-4-5-20251001",
      ["cache_write_1h 2", "cache_write_5m 1.25", "cached_input 0.1", "input 1", "output 5"],
    ],
    [
      "bedrock-runtime.amazonaws.com",
      "eu.anthropic.claude-haiku-4-5-20251001-v1:0",
      ["cache_write_1h 2.2", "cache_write_5m 1.375", "cached_input 0.11", "input 1.1", "output 5.5"],
    ],
    ["api.perplexity.ai", "sonar", ["input 1", "output 1", "request 12000"]],
  ])("%s %s costs what its provider lists", (host, model, expected) => {
    const rows = packaged.rows.filter((row) => row.provider === host && row.model === model);
    expect(rows.map((row) => `${row.unit} ${row.usdPerMillion}`)).toEqual(expected);
  });

  test("counts as the package does, at every border, on every day of a change, to the last digit", () => {
    const ids = Object.fromEntries(Object.entries(HOSTS).map(([id, host]) => [host, id]));
    const usage = { input: "input_tokens", output: "output_tokens" };
    let compared = 0;
    for (const row of packaged.rows) {
      const provider = findProvider({ providerId: ids[row.provider]! })!;
      const found = calcPrice({}, row.model, { provider })!.model;
      const byTime = JSON.stringify(found.prices).includes("time_of_date");
      if (!(row.unit in usage) || byTime) continue;
      const key = usage[row.unit as keyof typeof usage];
      const timestamp = new Date(row.validFrom ?? "2020-01-01");
      const ends = [
        row.promptTokensFrom,
        row.promptTokensBelow === null ? 9_000_000 : row.promptTokensBelow - 1,
      ];
      for (const tokens of ends) {
        const used = { input_tokens: tokens, [key]: tokens === 0 ? 1 : tokens };
        const theirs = calcPrice(used, row.model, { provider, timestamp })!;
        const cost = row.unit === "input" ? theirs.input_price : theirs.output_price;
        expect(cost, said([row])[0]).toBeCloseTo((Number(row.usdPerMillion) * used[key]!) / 1e6, 9);
        compared += 1;
      }
    }
    expect(compared).toBeGreaterThan(2000);
  });
});

describe("what a price becomes", () => {
  test("units, of a million each", () => {
    const prices = {
      input_mtok: 1,
      cache_read_mtok: 0.0028,
      cache_write_mtok: 1.25,
      cache_write_1h_mtok: 2.5,
      output_mtok: 1e-7,
      output_reasoning_mtok: 3,
      requests_kcount: 12.5,
    };
    expect(rowsOf(prices)).toEqual([
      "m cache_write_1h[0,) 2.5 [,)",
      "m cache_write_5m[0,) 1.25 [,)",
      "m cached_input[0,) 0.0028 [,)",
      "m input[0,) 1 [,)",
      "m output[0,) 0.0000001 [,)",
      "m reasoning[0,) 3 [,)",
      "m request[0,) 12500 [,)",
    ]);
  });

  test("a tier begins with the token after its start; equal ones are one", () => {
    const prices = {
      input_mtok: {
        base: 1,
        tiers: [
          { start: 271_999, price: 4 },
          { start: 100, price: 2 },
        ],
      },
      output_mtok: { base: 5, tiers: [{ start: 100, price: 5 }] },
    };
    expect(rowsOf(prices)).toEqual([
      "m input[0,101) 1 [,)",
      "m input[101,272000) 2 [,)",
      "m input[272000,) 4 [,)",
      "m output[0,) 5 [,)",
    ]);
  });

  test("a start date ends what was before it; what it does not change goes on", () => {
    const prices = [
      { prices: { input_mtok: 10, output_mtok: 4 } },
      {
        constraint: { type: "start_date" as const, start_date: "2025-06-10" },
        prices: { input_mtok: 2, output_mtok: 4 },
      },
      {
        constraint: { type: "start_date" as const, start_date: "2027-01-01" },
        prices: { input_mtok: 3, output_mtok: 4 },
      },
    ];
    expect(rowsOf(prices)).toEqual([
      "m input[0,) 10 [,2025-06-10)",
      "m input[0,) 2 [2025-06-10,2027-01-01)",
      "m input[0,) 3 [2027-01-01,)",
      "m output[0,) 4 [,)",
    ]);
  });

  test("by the time of day, the dearest; without a price of its cache, that of input", () => {
    const prices = [
      { prices: { input_mtok: 1, cache_read_mtok: 0.1, output_mtok: 9 } },
      {
        constraint: { type: "time_of_date" as const, start_time: "01:00:00Z", end_time: "04:00:00Z" },
        prices: { input_mtok: { base: 0.5, tiers: [{ start: 9, price: 2 }] }, output_mtok: 3 },
      },
    ];
    expect(rowsOf(prices)).toEqual([
      "m cached_input[0,10) 0.5 [,)",
      "m cached_input[10,) 2 [,)",
      "m input[0,10) 1 [,)",
      "m input[10,) 2 [,)",
      "m output[0,) 9 [,)",
    ]);
  });

  test("an hour in a cache of Claude costs twice the input, where the source does not say it", () => {
    const prices = { input_mtok: 1.1, cache_write_mtok: 1.375, output_mtok: 5 };
    const claude = { id: "claude-x", match: { equals: "claude-x" } };
    expect(rowsOf(prices, claude)[0]).toBe("claude-x cache_write_1h[0,) 2.2 [,)");
    expect(rowsOf({ ...prices, cache_write_1h_mtok: 9 }, claude)[0]).toBe(
      "claude-x cache_write_1h[0,) 9 [,)",
    );
    expect(rowsOf(prices)[0]).toBe("m cache_write_5m[0,) 1.375 [,)");
    expect(rowsOf({ input_mtok: 1, output_mtok: 5 }, claude)).toHaveLength(2);
  });

  test("the names that the source says in full, of the first model that it finds", () => {
    const match = { or: [{ equals: "m" }, { equals: "m-2026" }, { starts_with: "m-" }, { regex: "^n" }] };
    const prices = { input_mtok: 1, output_mtok: 2 };
    expect(new Set(rowsOf(prices, { match }).map((line) => line.split(" ")[0]))).toEqual(
      new Set(["m", "m-2026"]),
    );
    const two = provider(prices, { match: { starts_with: "m" } });
    two.models.push({ id: "m-2", match: { equals: "m-2" }, prices: { input_mtok: 7, output_mtok: 7 } });
    expect(said(priceRows([two]).rows)).toContain("m-2 input[0,) 1 [,)");
  });

  test("a regional model of Bedrock has the names of its profiles", () => {
    const match = {
      or: [{ starts_with: "anthropic.c" }, { contains: "us.anthropic.c" }, { contains: "eu.anthropic.c" }],
    };
    const rows = rowsOf({ input_mtok: 1, output_mtok: 2 }, { id: "regional.anthropic.c-v1:0", match }, "aws");
    expect(rows.filter((line) => line.includes("input")).map((line) => line.split(" ")[0])).toEqual([
      "anthropic.c-v1:0",
      "eu.anthropic.c-v1:0",
      "us.anthropic.c-v1:0",
    ]);
  });
});

test("decimals are as they were written", () => {
  expect([0.1, 0.003625, 1e-7, 1.5e-9, 25, 1e21, 0, 0.27].map((each) => decimal(each))).toEqual([
    ...["0.1", "0.003625", "0.0000001", "0.0000000015", "25", "1000000000000000000000", "0", "0.27"],
  ]);
  expect([decimal(1.1, 2n), decimal(0.005, 1000n), decimal(12.5, 1000n), decimal(-0.5)]).toEqual([
    ...["2.2", "5", "12500", "-0.5"],
  ]);
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 10 ** 9 }),
      fc.nat(9),
      fc.constantFrom(1n, 2n, 1000n),
      (digits, places, times) => {
        const text = decimal(Number(`${digits}e-${places}`), times);
        expect(text).toMatch(/^(0|[1-9]\d*)(\.\d*[1-9])?$/);
        const [whole = "", fraction = ""] = text.split(".");
        expect(BigInt(whole + fraction.padEnd(9, "0"))).toBe(
          BigInt(digits) * times * 10n ** BigInt(9 - places),
        );
      },
    ),
  );
});

describe("what app.llm_prices cannot say is left out, and said", () => {
  const text = { input_mtok: 1, output_mtok: 2 };
  test.each<[string, ModelInfo["prices"], Partial<ModelInfo>, string?]>([
    ["no price of input and output", { input_mtok: 1 }, {}],
    ["no price of input and output", {}, {}],
    ["free there, so nothing bounds it here", { input_mtok: 0, output_mtok: 0 }, {}],
    [
      "output_audio_mtok is no unit of ours, and text alone may bring it on",
      { ...text, output_audio_mtok: 1 },
      {},
    ],
    [
      "output_image_mtok is no unit of ours, and text alone may bring it on",
      { ...text, output_image_mtok: 1 },
      {},
    ],
    ["something_new is no unit of ours, and text alone may bring it on", { ...text, something_new: 1 }, {}],
    ["not a model of text", text, { id: "m-realtime", match: { equals: "m-realtime" } }],
    [
      "searches by itself, at a fee that the source does not list",
      text,
      { id: "m-search-preview", match: { equals: "m-search-preview" } },
    ],
    ["billed by Vertex AI, another host", text, { id: "claude-x", match: { equals: "claude-x" } }, "google"],
  ])("%s", (why, prices, more, id) => {
    expect(whySkipped(prices, more, id)).toEqual([0, why]);
  });

  test("what a caller must ask for is left out of a model that stays", () => {
    const prices = { ...text, web_searches_kcount: 10, input_audio_mtok: 3, cache_audio_read_mtok: 1 };
    expect(whySkipped(prices)).toEqual([
      2,
      "without cache_audio_read_mtok, input_audio_mtok, web_searches_kcount",
    ]);
  });
});

describe("what is not plausible", () => {
  const row = (usdPerMillion: string, more: Partial<PriceRow> = {}): PriceRow => ({
    ...{ provider: "p", model: "m", unit: "input", usdPerMillion },
    ...{ promptTokensFrom: 0, promptTokensBelow: null, validFrom: null, validUntil: null },
    ...more,
  });
  const found = (after: PriceRow, ...before: PriceRow[]) =>
    suspects([after], before).map(({ name, why }) => `${name} ${why}`);

  test.each([
    ["NaN", "no number"],
    ["Infinity", "no number"],
    ["-1", "negative"],
    ["100000.1", "too dear"],
    ["0", "free"],
    ["0.1000000001", "too many decimals"],
  ])("a price of %s: %s", (usd, why) => {
    expect(found(row(usd))).toEqual([`p/m:input ${why}`]);
  });

  test("what is plausible", () => {
    expect(found(row("100000"))).toEqual([]);
    expect(found(row("0.123456789"))).toEqual([]);
    expect(found(row("0", { unit: "cached_input" }))).toEqual([]);
    expect(found(row("200000", { unit: "request" }))).toEqual([]);
    expect(packaged.rows.flatMap((each) => suspects([each], packaged.rows))).toEqual([]);
  });

  test.each([
    ["9.99", "1", []],
    ["10", "1", ["p/m:input rises tenfold or more"]],
    ["1", "9.99", []],
    ["1", "10", ["p/m:input falls to a tenth or less"]],
    ["0.3", "0.03", ["p/m:input rises tenfold or more"]],
  ])("%s after %s: %j", (after, before, expected) => {
    expect(found(row(after), row(before))).toEqual(expected);
  });

  test("a rise from nothing is one; what was nothing may stay so", () => {
    const cached = (usd: string) => row(usd, { unit: "cached_input" });
    expect(found(cached("0.1"), cached("0"))).toEqual(["p/m:cached_input rises tenfold or more"]);
    expect(found(cached("0"), cached("0"))).toEqual([]);
  });

  test("a price is compared with that of the same tier and day, else with the latest, else with the base", () => {
    const high = { promptTokensFrom: 200 };
    const since = { validFrom: "2026-01-01" };
    expect(found(row("30", high), row("1", { promptTokensBelow: 200 }), row("20", high))).toEqual([]);
    expect(found(row("30", high), row("1"))).toEqual(["p/m:input rises tenfold or more"]);
    expect(found(row("30", since), row("1", { validUntil: "2026-01-01" }), row("20", since))).toEqual([]);
    expect(
      found(row("30", { validFrom: "2027-01-01" }), row("1", { validUntil: "2026-01-01" }), row("20", since)),
    ).toEqual([]);
    const later = { validFrom: "2027-01-01" };
    expect(found(row("30", since), row("20", since), row("1", later))).toEqual([]);
    expect(
      found(row("30"), row("1", { model: "n" }), row("1", { unit: "output" }), row("1", { provider: "q" })),
    ).toEqual([]);
  });
});

describe("npm run prices:import", () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "holdfast-prices-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  async function run(
    args: string[],
    url?: string,
  ): Promise<{ code: number; stdout: string; stderr: string }> {
    const env = { PATH: process.env["PATH"], ...(url === undefined ? {} : { DATABASE_URL: url }) };
    try {
      const program = projectFile("src/prices_import.ts");
      return { code: 0, ...(await promisify(execFile)(process.execPath, [program, ...args], { env })) };
    } catch (error) {
      return error as { code: number; stdout: string; stderr: string };
    }
  }
  /** A copy of the file, changed. */
  function fileWith(change: (sql: string) => string): string {
    const file = join(folder, "prices.sql");
    writeFileSync(file, change(readFileSync(FILE, "utf8")));
    return file;
  }
  const MINI = /^(.*'gpt-4\.1-mini', 'input', )0\.4,/m;

  test("makes the file that is there, byte for byte", async () => {
    const file = join(folder, "new.sql");
    const first = await run(["--file", file]);
    expect(first).toMatchObject({ code: 0, stderr: "" });
    expect(first.stdout).toContain(`${packaged.rows.length} prices of ${modelsOf(packaged.rows)} models`);
    expect(readFileSync(file, "utf8")).toBe(readFileSync(FILE, "utf8"));
    const said = JSON.parse((await run(["--file", file, "--json"])).stdout);
    expect(said).toMatchObject({ written: true, rows: packaged.rows.length, new: 0, changed: 0, gone: 0 });
    expect(said.skipped).toEqual(packaged.skipped);
  });

  test("a dry run says what would change and writes nothing", async () => {
    const file = fileWith((sql) => sql.replace(MINI, "$10.5,"));
    const before = readFileSync(file, "utf8");
    expect(before).not.toBe(readFileSync(FILE, "utf8"));
    const { stdout } = await run(["--file", file, "--dry-run", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ written: false, new: 0, changed: 1, gone: 0 });
    expect(readFileSync(file, "utf8")).toBe(before);
  });

  test("stops at a price that falls tenfold against the file, until it is accepted", async () => {
    const file = fileWith((sql) => sql.replace(MINI, "$14.0,"));
    const before = readFileSync(file, "utf8");
    const stopped = await run(["--file", file]);
    expect(stopped).toMatchObject({ code: 1, stdout: "" });
    expect(stopped.stderr).toContain(
      "prices_suspect: these prices are not plausible:\n  api.openai.com/gpt-4.1-mini:input: 4.0 -> 0.4",
    );
    expect(stopped.stderr.match(/->/g)).toHaveLength(1);
    expect(readFileSync(file, "utf8")).toBe(before);
    expect((await run(["--file", file, "--accept", "api.openai.com/gpt-4.1-mini:output"])).code).toBe(1);
    expect((await run(["--file", file, "--accept", "api.openai.com/gpt-4.1-mini:input"])).code).toBe(0);
    expect(readFileSync(file, "utf8")).toBe(readFileSync(FILE, "utf8"));
  });

  test("stops at a price that rises tenfold against app.llm_prices, which it only reads", async () => {
    await database.ops.query(
      `select * from ops.llm_prices_load('[
         {"provider": "api.openai.com", "model": "gpt-4.1-mini", "unit": "input", "usd_per_million": 0.04},
         {"provider": "api.openai.com", "model": "gpt-4.1-mini", "unit": "output", "usd_per_million": 1.6}]',
         source => 'typed', reason => 'a slip of the pen')`,
    );
    // What a person has set is kept, so it stops nothing.
    await database.ops.query(
      "select ops.llm_price_set('api.openai.com', 'gpt-4.1', 0.01, 0.01, reason => 'test')",
    );
    const url = database.url("holdfast_ops");
    const file = join(folder, "against.sql");
    const stopped = await run(["--file", file], url);
    expect(stopped).toMatchObject({ code: 1, stdout: "" });
    expect(stopped.stderr.match(/->/g)).toHaveLength(1);
    expect(stopped.stderr).toContain(
      "api.openai.com/gpt-4.1-mini:input: 0.04 -> 0.4 (rises tenfold or more)",
    );
    expect((await run(["--file", file, "--accept", "api.openai.com/gpt-4.1-mini:input"], url)).code).toBe(0);
    const { rows } = await database.superuser.query(
      "select count(*)::int as n from app.llm_prices where source like '@pydantic/%'",
    );
    expect(rows).toEqual([{ n: 0 }]);
  });

  test("help, and a wrong option", async () => {
    expect((await run(["--help"])).stdout).toContain("--accept PROVIDER/MODEL:UNIT");
    expect(await run(["--hurry"])).toMatchObject({ code: 2, stdout: "" });
  });
});
