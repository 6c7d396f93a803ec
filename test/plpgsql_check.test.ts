// A PL/pgSQL body is only parsed when it is created. The extension plpgsql_check reads every statement of it against the
// catalog; Debian has it as postgresql-15-plpgsql-check.
import { expect, inject, test } from "vitest";
import { withClient } from "../src/migrate.ts";
import { testDatabase } from "./support/database.ts";

const database = testDatabase();
const available = await withClient(inject("server").administrator, async (client) => {
  const { rowCount } = await client.query("select from pg_available_extensions where name = 'plpgsql_check'");
  return rowCount === 1;
});
if (!available) console.info("plpgsql_check is not installed on this server: its test is skipped.");

/** Every warning about the functions that match; trigger functions as one of their triggers would call them. */
async function warnings(pattern: string): Promise<string[]> {
  const { rows } = await database.superuser.query(
    `with functions as (
       select p.oid, coalesce(min(t.tgrelid), 0) as table_oid, min(t.tgoldtable) as old_rows, min(t.tgnewtable) as new_rows
       from pg_proc as p
       join pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
       left join pg_trigger as t on t.tgfoid = p.oid and t.tgparentid = 0
       where p.pronamespace::regnamespace::text || '.' || p.proname ~ $1
       group by p.oid
     )
     select f.oid::regprocedure || ' line ' || coalesce(w.lineno, 0) || ': ' || w.level || ' ' || w.sqlstate || ' '
              || concat_ws('; ', w.message, w.detail, w.hint) as said
     from functions as f
     cross join lateral plpgsql_check_function_tb(f.oid, f.table_oid, fatal_errors => false,
       other_warnings => true, extra_warnings => true, security_warnings => true, compatibility_warnings => true,
       oldtable => f.old_rows, newtable => f.new_rows) as w
     order by 1`,
    [pattern],
  );
  return rows.map((row) => row.said);
}

test.skipIf(!available)("plpgsql_check finds nothing to say about any function", async () => {
  await database.superuser.query("create extension plpgsql_check schema public");
  expect(await warnings("^(app|app_private|ops)\\.")).toEqual([]);

  await database.superuser.query(`
    create function app_private.wrong(value text) returns void language plpgsql as $$
    declare v_unused integer;
    begin
      perform t.nothing from app.tenants as t;
      execute 'select ' || value;
    end $$`);
  const found = (await warnings("^app_private.wrong$")).join("\n");
  for (const fault of ["t.nothing does not exist", "unused variable", "SQL injection"])
    expect(found).toContain(fault);
});
