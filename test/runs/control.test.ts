// Which statements of a task would begin or end the work transaction.
import { expect, test } from "vitest";
import { controlsTransaction } from "../../src/runs/client.ts";

test.each([
  "commit",
  "COMMIT WORK",
  "  end;",
  "rollback",
  "abort and chain",
  "begin",
  "start transaction",
  "prepare transaction 'x'",
  "-- a word\ncommit",
  "/* a /* nested */ word */ commit",
  ";; /**/ commit",
  "rollback/**/and chain",
  "rollback -- to\n and chain",
  "prepare /* x */ transaction 'x'",
])("%j does", (text) => {
  expect(controlsTransaction(text)).toBe(true);
});

test.each([
  "select 'commit'",
  "savepoint a",
  "rollback to a",
  "ROLLBACK TRANSACTION TO SAVEPOINT a",
  "rollback /* x */ to a",
  "release a",
  "prepare p as select 1",
  "do $$ begin end $$",
  "/* commit */ select 1",
  "-- commit",
  "/* open",
  "endless",
  "",
])("%j does not", (text) => {
  expect(controlsTransaction(text)).toBe(false);
});
