// sql/ops/help.sql: each example runs, as it is written, for the people it is for.
import { expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();

test("every example runs, one after the other, as a person in psql", async () => {
  const { rows } = await database.ops.query("select name, example, meaning from ops.help");
  expect(rows.length).toBeGreaterThan(10);
  for (const { name, example } of rows) {
    const outcome = await database.ops.query(example).then(
      () => "runs",
      (error: Error) => error.message,
    );
    const expected = name === "ops.ticket_key_retire" ? "ticket_key_last" : "runs"; // there is one key
    expect(`${name}: ${outcome}`).toBe(`${name}: ${expected}`);
  }
});

test("the examples that change something did", async () => {
  const { rows: budgets } = await database.ops.query(
    "select limit_usd from ops.budgets where tenant = 'Acme'",
  );
  expect(budgets).toEqual([{ limit_usd: "50" }]);
  const { rows: audited } = await database.ops.query("select action from ops.audit_log order by id");
  expect(audited.map((row) => row.action)).toEqual(["tenant_add", "become", "set_limit", "llm_price_set"]);
});

test("everything in ops is in it, and everything in it is there", async () => {
  const { rows } = await database.superuser.query(
    `select o.name from (
       select 'ops.' || c.relname as name from pg_class as c where c.relnamespace = 'ops'::regnamespace and c.relkind in ('r', 'v')
       union select 'ops.' || p.proname from pg_proc as p where p.pronamespace = 'ops'::regnamespace) as o
     where o.name not in ('ops.help', 'ops.report_text') and o.name not in (select h.name from ops.help as h)`,
  );
  expect(rows).toEqual([]);
});

test("house rules and the books are in order, as the examples show", async () => {
  expect((await database.ops.query("select * from app_private.lint")).rows).toEqual([]);
  expect((await database.ops.query("select * from app.llm_check()")).rows).toEqual([]);
});
