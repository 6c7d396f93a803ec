// sql/app/migration_applied.sql: a program finds out whether the database is as new as it is.
import { expect, test } from "vitest";
import { newestMigration } from "../../src/migrate.ts";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
const TEXT = "select app.migration_applied($1) as applied";

test("the newest committed migration is applied, one to come and none are not", async () => {
  for (const { pool } of [database.service, database.worker]) {
    const applied = async (file: string | null) => (await pool.query(TEXT, [file])).rows[0].applied;
    expect(await applied(newestMigration())).toBe(true);
    expect(await applied("999999.sql")).toBe(false);
    expect(await applied("")).toBe(false);
    expect(await applied(null)).toBe(false);
  }
});

test("nothing is applied where no list of migrations is", async () => {
  await rolledBack(database.superuser, async (client) => {
    await client.query("drop schema graphile_migrate cascade");
    await client.query("set local role holdfast_service");
    expect((await client.query(TEXT, [newestMigration()])).rows).toEqual([{ applied: false }]);
  });
});

test("the list itself stays shut, and people in psql do not ask here", async () => {
  await expect(database.service.pool.query("select from graphile_migrate.migrations")).rejects.toMatchObject({
    code: "42501",
  });
  await expect(database.ops.query(TEXT, [newestMigration()])).rejects.toMatchObject({ code: "42501" });
});
