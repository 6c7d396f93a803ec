// What a task reads as its input is what SQL lets in: the two schemas of each kind are the same.
import { expect, test } from "vitest";
import { z } from "zod";
import type { Db } from "../../src/db.ts";
import type { Llm } from "../../src/llm.ts";
import analysis from "../../tasks/analysis.ts";
import costImport from "../../tasks/cost_import.ts";
import detection from "../../tasks/detection.ts";
import { testDatabase } from "../support/database.ts";
import { sql } from "../support/job_scene.ts";

const database = testDatabase();
const tasks = [analysis({} as Llm), costImport({} as Db), detection()];

test.each(tasks.map((entry) => [entry.kind, entry] as const))("%s", async (kind, { input }) => {
  const [row] = await sql<{ input_schema: object }>(
    database,
    "select input_schema from app.job_kinds where kind = $1",
    [kind],
  );
  const { $schema: _, ...schema } = z.toJSONSchema(input);
  expect(row?.input_schema).toEqual(schema);
});

test("every kind of a slot has a task, in the order in which they follow each other", async () => {
  const rows = await sql<{ kind: string }>(
    database,
    "select kind from app.job_kinds where slot_order is not null order by slot_order",
  );
  expect(rows.map((row) => row.kind)).toEqual(["cost_import", "detection", "analysis"]);
  expect(rows.map((row) => row.kind).sort()).toEqual(tasks.map((entry) => entry.kind));
});
