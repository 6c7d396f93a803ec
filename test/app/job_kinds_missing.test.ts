import { expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();

test("names the kinds that there are not, each once", async () => {
  const missing = async (kinds: (string | null)[]) =>
    (await database.worker.pool.query("select app.job_kinds_missing($1) as kinds", [kinds])).rows[0].kinds;
  expect(await missing([])).toEqual([]);
  expect(await missing(["analysis", "detection"])).toEqual([]);
  expect(await missing(["zebra", "analysis", "ant", "zebra"])).toEqual(["ant", "zebra"]);
});

test("is for workers alone", async () => {
  for (const pool of [database.service.pool, database.ops]) {
    await expect(pool.query("select app.job_kinds_missing('{}')")).rejects.toMatchObject({ code: "42501" });
  }
});
