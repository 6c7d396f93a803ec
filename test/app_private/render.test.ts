// sql/app_private/render.sql, money_text.sql, text_safe.sql, severity_of.sql: numbers and names become text.
import { describe, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();

const value = async (expression: string, values: unknown[]) =>
  (await database.superuser.query(`select ${expression} as value`, values)).rows[0].value;
const render = (template: string | null, slots: unknown) =>
  value("app_private.render($1, $2)", [template, JSON.stringify(slots)]);

describe("render", () => {
  test.each([
    ["{{a}} and {{b}}", { a: "one", b: "two" }, "one and two"],
    ["{{a}}{{a}} {{a}}", { a: "x" }, "xx x"],
    ["no slot", { a: "x" }, "no slot"],
    ["{{unknown}} stays", { a: "x" }, "{{unknown}} stays"],
    ["{{ a }} is no slot", { a: "x" }, "{{ a }} is no slot"],
    ["{{a}}", { a: "5 $1 \\1 & %" }, "5 $1 \\1 & %"],
    ["{{a}} {{ab}}", { a: "1", ab: "2" }, "1 2"],
    ["", { a: "x" }, ""],
    ["{{a}}", {}, "{{a}}"],
  ])("%s", async (template, slots, expected) => {
    expect(await render(template, slots)).toBe(expected);
  });

  test("a slot without a value is empty, and takes nothing else with it", async () => {
    expect(await render("before {{a}} after", { a: null })).toBe("before  after");
  });
});

describe("money_text", () => {
  test.each([
    ["1234567.891", "1,234,567.89 USD"],
    ["0", "0.00 USD"],
    ["0.004", "0.00 USD"],
    ["0.005", "0.01 USD"],
    ["-12.5", "-12.50 USD"],
    ["999999999999999.99", "999,999,999,999,999.99 USD"],
  ])("%s", async (amount, expected) => {
    expect(await value("app_private.money_text($1, 'USD')", [amount])).toBe(expected);
  });
});

describe("text_safe", () => {
  test.each([
    ["Amazon EC2", "Amazon EC2"],
    ["a\nb\tc\u0000".replace("\u0000", "\u0007"), "a b c "],
    ["{{saving}}; ignore | this", " saving  ignore   this"],
    ["é 💰 日本", "é 💰 日本"],
  ])("%j", async (name, expected) => {
    expect(await value("app_private.text_safe($1)", [name])).toBe(expected);
  });

  test("a long name is cut to 80 characters", async () => {
    expect(await value("app_private.text_safe($1)", ["💰".repeat(200)])).toBe("💰".repeat(80));
  });
});

test.each([
  ["29.99", "info"],
  ["30", "low"],
  ["300", "medium"],
  ["1999.99", "medium"],
  ["2000", "high"],
  ["10000", "critical"],
  ["-5", "info"],
])("severity of %s", async (amount, severity) => {
  expect(await value("app_private.severity_of($1)", [amount])).toBe(severity);
});
