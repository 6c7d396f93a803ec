import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { AppError } from "../src/errors.ts";
import { FOCUS_COLUMNS, LINE_CELLS, REQUIRED_COLUMNS } from "../src/focus/columns.ts";
import { readFocus } from "../src/focus.ts";

const directory = mkdtempSync(join(tmpdir(), "focus-"));
afterAll(() => rmSync(directory, { recursive: true }));

type Row = Record<string, string>;

const ROW: Row = {
  AvailabilityZone: "us-east-1a",
  BilledCost: "12.50",
  BillingAccountId: "1234567890",
  BillingAccountName: "Main",
  BillingCurrency: "USD",
  BillingPeriodEnd: "2024-10-01T00:00:00Z",
  BillingPeriodStart: "2024-09-01T00:00:00Z",
  ChargeCategory: "Usage",
  ChargeClass: "",
  ChargeDescription: "an hour of a machine",
  ChargeFrequency: "Usage-Based",
  ChargePeriodEnd: "2024-09-02T00:00:00Z",
  ChargePeriodStart: "2024-09-01T00:00:00Z",
  ContractedCost: "12.50",
  EffectiveCost: "12.50",
  InvoiceIssuerName: "AWS",
  ListCost: "12.50",
  PricingQuantity: "1",
  PricingUnit: "Hours",
  ProviderName: "AWS",
  PublisherName: "AWS",
  ServiceCategory: "Compute",
  ServiceName: "Amazon EC2",
  Tags: '{"owner":"ada"}',
};

function csv(rows: Row[], newline = "\n"): string {
  const names = Object.keys(rows[0] ?? ROW);
  const line = (cells: string[]) => cells.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",");
  return [line(names), ...rows.map((row) => line(names.map((name) => row[name] ?? "")))].join(newline);
}

function write(content: string | Buffer, name = "costs.csv"): string {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
}

async function read(path: string): Promise<string[]> {
  const rows: string[] = [];
  for await (const batch of readFocus(path)) rows.push(...batch.rows);
  return rows;
}

/** Undoes a composite literal, as Postgres does: fields by name, null where a field is empty. */
function fields(literal: string): Record<string, string | null> {
  const cells = [...literal.slice(1, -1).matchAll(/(?:^|,)(?:"((?:[^"\\]|""|\\\\)*)")?/g)].map((match) =>
    match[1] === undefined ? null : match[1].replaceAll('""', '"').replaceAll("\\\\", "\\"),
  );
  expect(cells).toHaveLength(LINE_CELLS.length);
  return Object.fromEntries(LINE_CELLS.map(({ name }, index) => [name, cells[index] ?? null]));
}

async function readRow(over: Row): Promise<Record<string, string | null>> {
  const rows = await read(write(csv([{ ...ROW, ...over }])));
  expect(rows).toHaveLength(1);
  return fields(rows[0] ?? "");
}

async function refused(path: string): Promise<AppError> {
  const error = await read(path).catch((caught: unknown) => caught);
  if (!(error instanceof AppError)) throw new Error(`expected a refusal, got ${String(error)}`);
  expect(error.code).toBe("focus_invalid");
  return error;
}

describe("the columns", () => {
  test("are the 57 of FOCUS 1.2 that we store, 21 of them mandatory in 1.0, between a line and two of ours", () => {
    expect(FOCUS_COLUMNS).toHaveLength(57);
    expect(new Set(FOCUS_COLUMNS.map((column) => column.focus)).size).toBe(57);
    expect(LINE_CELLS).toHaveLength(60);
    expect(LINE_CELLS.at(16)).toEqual({ name: "charge_class", type: "text" });
    expect(REQUIRED_COLUMNS).toEqual(
      Object.keys(ROW).filter((name) => !["AvailabilityZone", "ChargeFrequency", "Tags"].includes(name)),
    );
  });

  test("that are missing are null, those of FOCUS 1.1 and 1.2 are known, the others are kept as extra", async () => {
    const row = await readRow({
      ServiceSubcategory: "Virtual Machines",
      x_Team: "core",
      Id: "7",
      x_Empty: "NULL",
    });
    expect(row).toMatchObject({ service_subcategory: "Virtual Machines", sku_id: null, reader_flags: null });
    expect(JSON.parse(row["extra"] ?? "")).toEqual({ x_Team: "core", Id: "7" });
    const versions = async (over: Row) =>
      (await readFocus(write(csv([{ ...ROW, ...over }]))).next()).value.version;
    expect(await versions({})).toBe("1.0");
    expect(await versions({ SkuMeter: "" })).toBe("1.1");
    expect(await versions({ SkuMeter: "", InvoiceId: "" })).toBe("1.2");
  });
});

describe("a cell", () => {
  test("that is empty or says NULL is null", async () => {
    expect(
      await readRow({ ChargeClass: "NULL", Tags: "", AvailabilityZone: "null", ListCost: "NULL" }),
    ).toMatchObject({
      charge_class: null,
      tags: null,
      availability_zone: null,
      list_cost: null,
    });
  });

  test.each([
    ["2024-09-01 07:30:00", "2024-09-01T07:30:00Z"],
    ["2024-09-01T09:30:00+02:00", "2024-09-01T07:30:00Z"],
    ["2024-09-01T00:30:00.000-0700", "2024-09-01T07:30:00Z"],
    ["2024-09-01 07:30:00 UTC", "2024-09-01T07:30:00Z"],
    ["2024-09-01T07:30Z", "2024-09-01T07:30:00Z"],
    ["2024-09-01", "2024-09-01T00:00:00Z"],
  ])("with the time %s is %s", async (cell, utc) => {
    expect((await readRow({ ChargePeriodStart: cell }))["charge_period_start"]).toBe(utc);
  });

  test.each([
    "0.00000080000",
    "-3.5",
    "+1",
    ".5",
    "2.5E-6",
    "1e3",
    "123456789012345678901234567890.123456789",
  ])("with the number %s stays text", async (cell) => {
    expect((await readRow({ ListUnitPrice: cell }))["list_unit_price"]).toBe(cell);
  });

  test("with a charge frequency is spelled as FOCUS does", async () => {
    expect((await readRow({ ChargeFrequency: "Usage-based" }))["charge_frequency"]).toBe("Usage-Based");
    expect((await readRow({ ChargeFrequency: "one-time" }))["charge_frequency"]).toBe("One-Time");
  });

  test("with tags: keys lose stray space, numbers and nested values become text, the last of equal keys counts", async () => {
    const tags =
      '{" owner": "ada", "n": 1.10, "big": 12345678901234567890, "deep": {"a": [1]}, "x": 1, "x": null, "u": "\\ud83d!"}';
    const row = await readRow({ Tags: tags });
    expect(JSON.parse(row["tags"] ?? "")).toEqual({
      owner: "ada",
      n: "1.10",
      big: "12345678901234567890",
      deep: '{"a":["1"]}',
      x: null,
      u: "\uFFFD!",
    });
    expect(row["reader_flags"]).toBeNull();
  });

  test.each(["{owner: ada}", '["ada"]', "ada", '{"owner":"ada"', "[".repeat(50_000)])(
    "with tags that are no JSON object is null and flagged: %.20s",
    async (cell) => {
      expect(await readRow({ Tags: cell })).toMatchObject({ tags: null, reader_flags: "{tag_json_invalid}" });
    },
  );

  test("with a tag that names a NUL keeps the tag without it, since jsonb cannot hold one", async () => {
    expect((await readRow({ Tags: '{"a\\u0000":"b\\u0000c"}' }))["tags"]).toBe('{"a":"bc"}');
  });

  test("with a price as its availability zone is kept and flagged", async () => {
    expect(await readRow({ AvailabilityZone: "0.05" })).toMatchObject({
      availability_zone: "0.05",
      reader_flags: "{availability_zone_not_a_zone}",
    });
  });

  test("with control characters loses them and is flagged; tabs and line breaks stay", async () => {
    expect(await readRow({ ResourceName: "a\u001b[2J\tb\nc\u007f" })).toMatchObject({
      resource_name: "a[2J\tb\nc",
      reader_flags: "{control_characters_removed}",
    });
  });

  test("with quotes, backslashes and other scripts arrives as it was", async () => {
    const text = `say "hi" \\ (a,b) {c} ü 漢字 🙂 '; drop`;
    expect((await readRow({ ResourceName: text, x_Note: text }))["resource_name"]).toBe(text);
  });
});

describe("a file", () => {
  test("comes in batches of 2,000 rows, each with its line", async () => {
    const path = write(csv(Array.from({ length: 4_500 }, () => ROW)));
    const batches = await Array.fromAsync(readFocus(path));
    expect(batches.map((batch) => batch.rows.length)).toEqual([2_000, 2_000, 500]);
    expect(fields(batches[2]?.rows.at(-1) ?? "")["line_no"]).toBe("4501");
  });

  test("may be gzip, whatever its name says, in several members too", async () => {
    const [header, row] = csv([ROW]).split("\n");
    const packed = Buffer.concat([gzipSync(`${header}\n`), gzipSync(`${row}\n`)]);
    expect(await read(write(packed, "costs.txt"))).toHaveLength(1);
    expect(await read(write(csv([ROW]), "plain.csv.gz"))).toHaveLength(1);
  });

  test("may have a byte order mark, CRLF or CR, blank lines, and no newline at its end", async () => {
    expect(await read(write(`\uFEFF${csv([ROW, ROW], "\r\n")}\r\n\r\n`))).toHaveLength(2);
    expect(await read(write(csv([ROW, ROW], "\r")))).toHaveLength(2);
    expect(await read(write(csv([ROW, ROW], "\n\n")))).toHaveLength(2);
  });

  test.each(["\n", "\r\n"])(
    "with line breaks inside quotes counts lines as an editor does",
    async (newline) => {
      const broken = { ...ROW, ChargeDescription: `one${newline}two${newline}${newline}four` };
      const path = write(
        csv([broken, ROW, broken, ROW], newline).replace(/\r?\n"us-east-1a"/, `${newline}$&`),
      );
      expect((await read(path)).map((row) => fields(row)["line_no"])).toEqual(["3", "7", "8", "12"]);
    },
  );

  test("is read as it goes: good batches come before the row that ends it", async () => {
    const rows = Array.from({ length: 3_000 }, (_, index) =>
      index === 2_990 ? { ...ROW, BilledCost: "x" } : ROW,
    );
    const batches = readFocus(write(csv(rows)));
    expect((await batches.next()).value?.rows).toHaveLength(2_000);
    await expect(batches.next()).rejects.toMatchObject({ detail: { line: 2_992, column: "BilledCost" } });
  });

  test("can be left in the middle", async () => {
    for await (const batch of readFocus(write(gzipSync(csv(Array.from({ length: 9_000 }, () => ROW)))))) {
      expect(batch.rows).toHaveLength(2_000);
      break;
    }
  });
});

describe("refused by file, line and column:", () => {
  test.each<[string, Row, string, string]>([
    ["a currency sign", { BilledCost: "$10,000.00 " }, "BilledCost", "$10,000.00 "],
    ["a thousands separator", { EffectiveCost: "1,000" }, "EffectiveCost", "1,000"],
    ["not a number", { ListUnitPrice: "NaN" }, "ListUnitPrice", "NaN"],
    ["infinity", { ListUnitPrice: "Infinity" }, "ListUnitPrice", "Infinity"],
    ["hexadecimal", { PricingQuantity: "0x10" }, "PricingQuantity", "0x10"],
    ["an absurd exponent", { PricingQuantity: "1e400" }, "PricingQuantity", "1e400"],
    ["an absurd length", { PricingQuantity: "9".repeat(200) }, "PricingQuantity", `${"9".repeat(79)}…`],
    ["a US date", { ChargePeriodStart: "5/1/25" }, "ChargePeriodStart", "5/1/25"],
    ["a day that is not", { BillingPeriodStart: "2024-02-30" }, "BillingPeriodStart", "2024-02-30"],
    ["hour 24", { ChargePeriodStart: "2024-09-01T24:00:00Z" }, "ChargePeriodStart", "2024-09-01T24:00:00Z"],
    ["a year far off", { BillingPeriodEnd: "9999-12-31" }, "BillingPeriodEnd", "9999-12-31"],
    ["a cost that is missing", { EffectiveCost: "NULL" }, "EffectiveCost", "NULL"],
    ["an unknown category", { ChargeCategory: "usage" }, "ChargeCategory", "usage"],
    ["an unknown frequency", { ChargeFrequency: "Often" }, "ChargeFrequency", "Often"],
    ["a currency that is none", { BillingCurrency: "dollars" }, "BillingCurrency", "dollars"],
    ["an empty charge period", { ChargePeriodEnd: "2024-09-01" }, "ChargePeriodEnd", "2024-09-01T00:00:00Z"],
    [
      "a billing period run back",
      { BillingPeriodEnd: "2024-08-01" },
      "BillingPeriodEnd",
      "2024-08-01T00:00:00Z",
    ],
    ["a NUL", { ResourceName: "a\0b" }, "ResourceName", "a\\u0000b"],
    ["a NUL in a column of its own", { x_Note: "a\0b" }, "x_Note", "a\\u0000b"],
  ])("%s in row 517", async (_, over, column, value) => {
    const rows = Array.from({ length: 600 }, (_each, index) => ({
      ...ROW,
      ...blank(over),
      ...(index === 515 ? over : {}),
    }));
    const error = await refused(write(csv(rows), "september.csv"));
    expect(error.detail).toMatchObject({ file: "september.csv", line: 517, column, value });
    expect(error.message).toContain(`september.csv, line 517, column ${column}: "${value}": `);
    expect(error.status).toBe(422);
  });

  test.each<[string, string | Buffer, object, RegExp]>([
    ["an empty file", "", { line: 1, column: "BilledCost" }, /the file is empty/],
    ["blank lines alone", "\n\n", { line: 1, column: "BilledCost" }, /the file is empty/],
    ["a header alone", `${csv([])}\n`, { line: 2 }, /a header and no rows/],
    ["a missing column", csv([without("ListCost")]), { line: 1, column: "ListCost" }, /FOCUS 1\.0 requires/],
    ["another table", "name,age\nada,36\n", { line: 1, column: "BilledCost" }, /FOCUS 1\.0 requires/],
    ["a column named twice", csv([ROW]).replace('"Tags"', '"BilledCost"'), { column: "BilledCost" }, /twice/],
    ["a column without a name", csv([ROW]).replace('"Tags"', '""'), { column: "number 24" }, /no name/],
    ["HTML", "<!doctype html><p>Sign in", { line: 1, column: "BilledCost" }, /looks like HTML/],
    ["JSON", '\n [{"BilledCost": 1}]', { line: 1, column: "BilledCost" }, /looks like JSON/],
    ["Parquet", "PAR1\x15\x04", { line: 1, column: "BilledCost" }, /looks like Parquet/],
    ["a workbook", "PK\x03\x04\x14\0", { line: 1, column: "BilledCost" }, /zip archive or an Excel workbook/],
    ["UTF-16 with a mark", Buffer.from(`\uFEFF${csv([ROW])}`, "utf16le"), { line: 1 }, /looks like UTF-16/],
    ["UTF-16 without", Buffer.from(csv([ROW]), "utf16le"), { line: 1 }, /looks like UTF-16/],
    ["UTF-16, big end first", Buffer.from(csv([ROW]), "utf16le").swap16(), { line: 1 }, /looks like UTF-16/],
    ["gzip inside gzip", gzipSync(gzipSync(csv([ROW]))), { line: 1 }, /gzip inside gzip/],
    ["an empty gzip", gzipSync(""), { line: 1 }, /the file is empty/],
    [
      "a quote never closed",
      csv([ROW, ROW, ROW]).slice(0, -5),
      { line: 4, column: "Tags" },
      /the row is cut/,
    ],
    [
      "too few fields",
      `${csv([ROW])}\n"a","b"`,
      { line: 3, column: "BilledCost" },
      /cut: it has 2 fields and the header 24/,
    ],
    [
      "too many fields",
      `${csv([ROW])},"b"\n`,
      { line: 2, column: "Tags" },
      /has 25 fields and the header 24/,
    ],
    [
      "a quote inside",
      csv([ROW]).replace("an hour", 'an "big" hour'),
      { line: 2, column: "ChargeDescription" },
      /quote/,
    ],
    [
      "a huge cell",
      csv([{ ...ROW, ChargeDescription: "x".repeat(1_000_001) }]),
      { line: 2, column: "ChargeDescription" },
      /1,000,000/,
    ],
    [
      "Latin-1",
      Buffer.from(csv([ROW, { ...ROW, ServiceName: "caf\u00e9" }]), "latin1"),
      { line: 3, column: "ServiceName" },
      /not valid UTF-8/,
    ],
    [
      "a file cut in a letter",
      Buffer.from(csv([ROW]).slice(0, -16).concat("ä")).subarray(0, -1),
      { line: 2 },
      /the row is cut/,
    ],
    [
      "a cut gzip",
      gzipSync(csv(Array.from({ length: 99 }, noisy))).subarray(0, -2_000),
      { line: expect.any(Number), column: expect.any(String) },
      /gzip data ends too early/,
    ],
    [
      "a damaged gzip",
      damaged(gzipSync(csv(Array.from({ length: 99 }, noisy)))),
      { line: expect.any(Number) },
      /gzip data is damaged/,
    ],
  ])("%s", async (_, content, place, message) => {
    const error = await refused(write(content));
    expect(error.detail).toMatchObject({ file: "costs.csv", column: expect.any(String), ...place });
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/^costs\.csv, line \d+, column [^:]+: /);
  });

  test("the place of a cut gzip is the row that was cut", async () => {
    const packed = gzipSync(csv(Array.from({ length: 2_000 }, noisy)));
    const error = await refused(write(packed.subarray(0, packed.length >> 1)));
    expect(error.detail["line"]).toBeGreaterThan(500);
    expect(error.detail["line"]).toBeLessThan(1_500);
  });

  test("hints say what to do", async () => {
    const hint = async (content: string | Buffer) => (await refused(write(content))).hint;
    expect(await hint(Buffer.from(csv([ROW]), "utf16le"))).toContain("Save the file as UTF-8");
    expect(await hint(csv([ROW]).replaceAll('","', '";"').replaceAll('"', ""))).toContain('separated by ";"');
    expect(await hint(csv([ROW]).replace("BilledCost", "billedcost"))).toContain(
      "FOCUS spells it BilledCost",
    );
  });

  test("a folder, and a file that is not there", async () => {
    expect((await refused(directory)).message).toContain("a folder or a device");
    expect((await refused(join(directory, "none.csv"))).message).toContain("there is no such file");
  });

  test("a value cannot reach the terminal: control characters are escaped", async () => {
    const error = await refused(write(csv([{ ...ROW, BilledCost: "\u001b[2J\u009b9" }])));
    expect(error.message).toContain('"\\u001b[2J\\u009b9": ');
    expect(error.detail["value"]).toBe("\\u001b[2J\\u009b9");
  });
});

const data = fileURLToPath(new URL("../../shared/data/focus/", import.meta.url));
const sample = join(data, "focus_1_0_sample.csv");
const scenarios = join(data, "spec-1.2-scenarios");
const withData = existsSync(sample) && existsSync(scenarios);
if (!withData) console.warn(`Skipped: no FOCUS sample files in ${data}`);

describe.skipIf(!withData)("the sample files of the specification", () => {
  test("the FOCUS 1.0 sample is taken whole", async () => {
    const rows = (await read(sample)).map(fields);
    expect(rows).toHaveLength(1_000);
    const having = (test: (row: Record<string, string | null>) => boolean) => rows.filter(test).length;
    expect(having((row) => row["tags"] === null)).toBe(289);
    expect(having((row) => row["contracted_cost"] === null)).toBe(7);
    expect(having((row) => (row["reader_flags"] ?? "").includes("availability_zone_not_a_zone"))).toBe(51);
    expect(having((row) => (row["reader_flags"] ?? "").includes("tag_json_invalid"))).toBe(0);
    expect(new Set(rows.map((row) => row["charge_frequency"]))).toEqual(new Set(["Usage-Based", "One-Time"]));
    expect(rows[0]).toMatchObject({ line_no: "2", extra: '{"Id":"11472"}', billed_cost: "0.00000080000" });
  });

  test.each(withData ? readdirSync(scenarios).filter((name) => name.endsWith(".csv")) : [])(
    "the worked example %s is refused",
    async (name) => {
      const { detail } = await refused(join(scenarios, name));
      const expected = name.startsWith("virtual")
        ? { line: 1, column: "ServiceCategory" }
        : name.startsWith("saas")
          ? { line: 2, column: "BillingPeriodEnd", value: expect.stringMatching(/^\d+\/1\/2\d$/) }
          : name.startsWith("simple")
            ? { line: 2, column: "BilledCost", value: expect.stringMatching(/^\$[\d,.]+ $/) }
            : { line: 1, column: "BillingAccountId" };
      expect(detail).toMatchObject({ file: name, ...expected });
    },
  );
});

function blank(over: Row): Row {
  return Object.fromEntries(Object.keys(over).map((name) => [name, ROW[name] ?? ""]));
}

function without(name: string): Row {
  return Object.fromEntries(Object.entries(ROW).filter(([each]) => each !== name));
}

/** A row that does not pack well, so that a cut falls inside the data. */
function noisy(_: unknown, index: number): Row {
  return {
    ...ROW,
    ResourceId: Array.from({ length: 60 }, (_each, n) => Math.sin(index * 61 + n).toString(36)).join(),
  };
}

function damaged(packed: Buffer): Buffer {
  return Buffer.concat([packed.subarray(0, 300), Buffer.alloc(200, 0xff), packed.subarray(500)]);
}
