// sql/app_private/json_fault.sql: the part of JSON Schema that inputs are checked with, beside zod, which makes such schemas.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { z } from "zod";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();

async function fault(schema: unknown, value: unknown): Promise<string | null> {
  const { rows } = await database.superuser.query("select app_private.json_fault($1, $2) as fault", [
    JSON.stringify(schema),
    JSON.stringify(value),
  ]);
  return rows[0].fault;
}

async function schemaFault(schema: unknown): Promise<string | null> {
  const { rows } = await database.superuser.query("select app_private.json_schema_fault($1) as fault", [
    JSON.stringify(schema),
  ]);
  return rows[0].fault;
}

const day = { type: "string", format: "date" };
const moment = { type: "string", format: "date-time" };

test.each([
  [{}, 1, null],
  [{ type: "object" }, {}, null],
  [{ type: "object" }, [], "$: is no object"],
  [{ type: "object" }, null, "$: is no object"],
  [{ type: ["string", "null"] }, null, null],
  [{ type: ["string", "null"] }, 1, "$: is no string or null"],
  [{ type: "integer" }, 1.0, null],
  [{ type: "integer" }, 1.5, "$: is no integer"],
  [{ type: "integer" }, "1", "$: is no integer"],
  [{ type: "number" }, 1, null],
  [{ type: "boolean" }, "true", "$: is no boolean"],
  [{ const: "a" }, "a", null],
  [{ const: "a" }, "b", "$: is not the one value that it may be"],
  [{ enum: ["a", { b: [1] }] }, { b: [1] }, null],
  [{ enum: [["a"]] }, "a", "$: is none of the values that it may be"],
  [{ required: ["a"] }, {}, "$.a: is missing"],
  [{ required: ["a"] }, { a: null }, null],
  [{ required: ["a"] }, "no object", null],
  [{ properties: { a: { type: "string" } } }, { a: 1 }, "$.a: is no string"],
  [{ properties: { a: { type: "string" } } }, { b: 1 }, null],
  [{ additionalProperties: false }, { b: 1 }, "$.b: is not a property that there is"],
  [{ additionalProperties: true }, { b: 1 }, null],
  [{ properties: { "a b": { type: "string" } } }, { "a b": 1 }, '$["a b"]: is no string'],
  [{ additionalProperties: false }, { 'x": ': 1 }, '$["x\\": "]: is not a property that there is'],
  [{ minLength: 2 }, "a", "$: has fewer than 2 characters"],
  [{ maxLength: 2 }, "äöü", "$: has more than 2 characters"],
  [{ maxLength: 3 }, "äöü", null],
  [{ pattern: "^a+$" }, "aab", "$: does not match ^a+$"],
  [{ pattern: "a" }, "bab", null],
  [{ pattern: "(" }, "a", "$: does not match ("],
  [{ minimum: 1 }, 0.5, "$: is less than 1"],
  [{ minimum: 1 }, 1, null],
  [{ maximum: 1 }, 1e30, "$: is more than 1"],
  [{ items: { type: "integer" } }, [1, "2"], "$[1]: is no integer"],
  [{ minItems: 1 }, [], "$: has fewer than 1 items"],
  [{ maxItems: 1 }, [1, 2], "$: has more than 1 items"],
  [{ properties: { a: { items: { required: ["b"] } } } }, { a: [{ b: 1 }, {}] }, "$.a[1].b: is missing"],
  [{ format: "uuid" }, "0190b2ce-0000-7000-8000-000000000000", null],
  [{ format: "uuid" }, "0190b2ce", "$: is no uuid"],
  [day, "2024-02-29", null],
  [day, "2023-02-29", "$: is a day that its month does not have"],
  [day, "2023-13-01", "$: is no date such as 2026-01-31"],
  [day, "2023-12-01T00:00:00Z", "$: is no date such as 2026-01-31"],
  [day, "0000-01-01", null],
  [moment, "2026-01-31T12:00:00Z", null],
  [moment, "2026-01-31T12:00:00.123456+02:00", null],
  [moment, "2026-01-31T12:00:00", "$: is no moment such as 2026-01-31T12:00:00Z"],
  [moment, "2026-02-31T12:00:00Z", "$: is a day that its month does not have"],
  [moment, "yesterday", "$: is no moment such as 2026-01-31T12:00:00Z"],
])("%j and %j: %s", async (schema, value, expected) => {
  expect(await fault(schema, value)).toBe(expected);
});

test("a fault never holds a value", async () => {
  const secret = "hunter2";
  const schema = {
    type: "object",
    properties: {
      a: { type: "integer" },
      b: { maxLength: 1 },
      c: { enum: [1] },
      d: { const: 1 },
      e: { format: "date" },
      f: { pattern: "^x$" },
    },
  };
  for (const name of "abcdef") expect(await fault(schema, { [name]: secret })).not.toContain(secret);
});

describe("beside zod, with the schemas that zod writes", () => {
  const input = z.strictObject({
    name: z.string().min(1).max(5),
    count: z.int().min(0).max(10).optional(),
    share: z.number().min(0).max(1).optional(),
    mode: z.enum(["fast", "slow"]).default("fast"),
    on: z.boolean().optional(),
    tags: z
      .array(z.string().regex(/^[a-z]{1,3}$/))
      .min(1)
      .max(2)
      .optional(),
    kind: z.literal("x").optional(),
    ids: z.array(z.uuid()).optional(),
    day: z.iso.date().optional(),
    inner: z.object({ deep: z.string() }).optional(),
  });
  const schema = z.toJSONSchema(input, { io: "input" });

  test("the schema is one that is known", async () => {
    expect(await schemaFault(schema)).toBeNull();
  });

  test("both say yes and no to the same values", async () => {
    const some = fc.oneof(
      fc.constantFrom("", "a", "abc", "abcdef", "fast", "x", "slow", "2026-02-28", "2026-02-30"),
      fc.constantFrom("0190b2ce-0000-7000-8000-000000000000", 0, 1, 5, 11, -1, 0.5, 1.5, true, false, null),
      fc.array(fc.constantFrom("a", "abc", "abcd", 1, "0190b2ce-0000-7000-8000-000000000000"), {
        maxLength: 3,
      }),
      fc.constantFrom({}, { deep: "a" }, { deep: 1 }, { deep: "a", more: 1 }),
    );
    const keys = ["name", "count", "share", "mode", "on", "tags", "kind", "ids", "day", "inner", "other"];
    const values = fc
      .tuple(fc.constantFrom(...keys), some, fc.boolean())
      .map(([key, value, named]) => ({ ...(named ? { name: "abc" } : {}), [key]: value }));
    const sampled = fc.sample(values, { numRuns: 1500, seed: 7 });
    const fixed = [{ name: "a", count: 3, share: 0.5, mode: "slow", on: true, tags: ["a", "b"], kind: "x" }];
    const all = [...fixed, ...sampled];
    const { rows } = await database.superuser.query(
      "select app_private.json_fault($1, v.value) as fault from jsonb_array_elements($2) with ordinality as v (value, n) order by v.n",
      [JSON.stringify(schema), JSON.stringify(all)],
    );
    const verdicts = all.map((value) => ({ value, ok: input.safeParse(value).success }));
    expect(rows.map((row, n) => ({ value: all[n], ok: row.fault === null }))).toEqual(verdicts);
    expect(verdicts.filter((verdict) => verdict.ok).length).toBeGreaterThan(20);
  });
});

describe("json_schema_fault", () => {
  const deep = (levels: number): unknown => (levels === 0 ? {} : { items: deep(levels - 1) });

  test.each([
    [{ type: "object", title: "t", description: "d", $schema: "s", default: {}, examples: [] }, null],
    [{ oneOf: [] }, "$.oneOf: is not known here"],
    [{ properties: { a: { exclusiveMinimum: 1 } } }, "$.properties.a.exclusiveMinimum: is not known here"],
    [{ items: { $ref: "#" } }, '$.items["$ref"]: is not known here'],
    [{ properties: { oneOf: { type: "string" } } }, null],
    [{ type: "text" }, "$.type: names a type that there is not"],
    [{ type: [] }, "$.type: names a type that there is not"],
    [{ type: ["string", 1] }, "$.type: names a type that there is not"],
    [{ properties: [] }, "$.properties: is no object"],
    [{ properties: { a: true } }, "$.properties.a: is no object"],
    [{ items: [] }, "$.items: is no object"],
    [{ additionalProperties: {} }, "$.additionalProperties: is neither true nor false"],
    [{ required: "a" }, "$.required: is no list of names"],
    [{ required: [1] }, "$.required: is no list of names"],
    [{ enum: [] }, "$.enum: is no list of values"],
    [{ minLength: -1 }, "$.minLength: is no count"],
    [{ maxItems: "1" }, "$.maxItems: is no count"],
    [{ minimum: "1" }, "$.minimum: is no number"],
    [{ pattern: "(" }, "$.pattern: is no POSIX regular expression"],
    [{ pattern: 1 }, "$.pattern: is no POSIX regular expression"],
    [{ format: "email" }, "$.format: is not uuid, date or date-time"],
    [[], "$: is no object"],
    [deep(16), null],
    [deep(17), `$${".items".repeat(17)}: is deeper than 16`],
  ])("%j: %s", async (schema, expected) => {
    expect(await schemaFault(schema)).toBe(expected);
  });

  test("the schema of every kind that there is, is known", async () => {
    const { rows } = await database.superuser.query(
      "select kind, app_private.json_schema_fault(input_schema) as fault from app.job_kinds where app_private.json_schema_fault(input_schema) is not null",
    );
    expect(rows).toEqual([]);
  });
});
