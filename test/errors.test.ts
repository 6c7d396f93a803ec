import pg from "pg";
import { beforeAll, describe, expect, test } from "vitest";
import { AppError, ERRORS, type ErrorCode, translate } from "../src/errors.ts";
import { testDatabase } from "./support/database.ts";
import { rolledBack } from "./support/rolled_back.ts";

const database = testDatabase();
const tenants = { mine: "", foreign: "" };

beforeAll(async () => {
  tenants.mine = (await database.addTenant()).tenantId;
  tenants.foreign = (await database.addTenant()).tenantId;
});

/** The error of one statement, after others that must succeed. */
async function errorOf(
  pool: pg.Pool,
  statements: string[],
  values: unknown[] = [],
): Promise<pg.DatabaseError> {
  const last = statements.at(-1)!;
  return rolledBack(pool, async (client) => {
    for (const before of statements.slice(0, -1)) await client.query(before);
    const error: unknown = await client.query(last, values).catch((caught: unknown) => caught);
    if (!(error instanceof pg.DatabaseError)) throw new Error(`accepted: ${last}`);
    return error;
  });
}

function translated(error: unknown): AppError {
  const result = translate(error);
  if (!(result instanceof AppError)) throw new Error(`not translated: ${String(error)}`);
  return result;
}

const asMine = () => `select app.enter('${tenants.mine}', '${database.ticket(tenants.mine)}')`;

test("app.error_codes and the shell have the same codes, names and HTTP statuses", async () => {
  const { rows } = await database.service.pool.query(
    `select name, sqlstate, http_status as status from app.error_codes order by sqlstate collate "C"`,
  );
  const raised = Object.entries<{ sqlstate?: string; status: number }>(ERRORS)
    .flatMap(([name, { sqlstate, status }]) => (sqlstate === undefined ? [] : [{ name, sqlstate, status }]))
    .sort((a, b) => (a.sqlstate < b.sqlstate ? -1 : 1));
  expect(rows).toEqual(raised);
});

test("a SQLSTATE of ours is two letters, a verdict and a number, and none of Postgres's own", () => {
  const states = Object.values<{ sqlstate?: string; status: number }>(ERRORS).flatMap(
    ({ sqlstate }) => sqlstate ?? [],
  );
  expect(new Set(states).size).toBe(states.length);
  for (const state of states) expect(state).toMatch(/^[A-Z]{2}[123][0-9]{2}$/);
  // Classes that Postgres uses begin with a digit, or are these.
  for (const state of states) expect(["F0", "HV", "P0", "XX"]).not.toContain(state.slice(0, 2));
});

describe("what SQL raises by name", () => {
  test.each(
    Object.entries<{ sqlstate?: string; status: number }>(ERRORS).filter(([, { sqlstate }]) => sqlstate),
  )("%s comes as an AppError with its facts and hint", async (code, { sqlstate, status }) => {
    const raise = `do $$ begin raise exception using errcode = '${sqlstate}', message = '${code}',
        detail = '{"amount": "12", "nested": {"a": 1}}', hint = 'Do this.'; end $$`;
    const cause = await errorOf(database.superuser, [raise]);
    const error = translated(cause);
    expect(error).toMatchObject({
      name: "AppError",
      code,
      sqlstate,
      status,
      message: code,
      hint: "Do this.",
    });
    expect(error.cause).toBe(cause);
    expect(error.detail).toEqual(code === "rls_enforcement_failed" ? {} : { amount: "12", nested: { a: 1 } });
  });

  test.each([
    ["none", "", {}],
    ["a plain sentence", "plain words", { detail: "plain words" }],
    ["JSON that is no object", "12", { detail: "12" }],
    ["JSON null", "null", { detail: "null" }],
  ])("a detail that is %s does not fail", async (_what, detail, facts) => {
    const raise = `do $$ begin raise exception using errcode = 'IM101', message = 'import_not_found'
      ${detail === "" ? "" : `, detail = '${detail}'`}; end $$`;
    expect(translated(await errorOf(database.superuser, [raise])).detail).toEqual(facts);
  });

  test("the contract's own refusal, as the shell meets it", async () => {
    const error = translated(
      await errorOf(
        database.service.pool,
        [asMine(), "select app.analysis_get($1, $2, gen_random_uuid())"],
        [tenants.mine, database.ticket(tenants.mine)],
      ),
    );
    expect(error).toMatchObject({ code: "analysis_not_found", status: 404 });
    expect(error.hint).toMatch(/\w/);
  });
});

describe("insufficient privilege (42501) has two meanings", () => {
  test.each<[string, () => Promise<pg.DatabaseError>]>([
    [
      "a query that row security would filter",
      () => errorOf(database.service.pool, ["set local role holdfast_tenant", "select from tenant.tenants"]),
    ],
    [
      "a row that a policy does not let in",
      () =>
        errorOf(
          database.superuser,
          [
            "set local role holdfast_owner",
            asMine(),
            "insert into app.events (tenant_id, type) values ($1, 'a.b')",
          ],
          [tenants.foreign],
        ),
    ],
  ])("%s is rls_enforcement_failed, and says no more", async (_what, refuse) => {
    const cause = await refuse();
    expect(cause.code).toBe("42501");
    expect(translated(cause)).toMatchObject({ code: "rls_enforcement_failed", status: 500, detail: {} });
  });

  test.each([
    ["select from app.llm_reservation_keys", ["set local row_security = on"]],
    ["select app.schedule_tick()", []],
    ["set role holdfast_owner", []],
  ])("a plain missing right passes untouched: %s", async (text, before) => {
    const error = await errorOf(database.service.pool, [...before, text]);
    expect(error.code).toBe("42501");
    expect(translate(error)).toBe(error);
  });
});

test("everything else passes untouched: it is a bug, or it is not ours", async () => {
  const statements = [
    "select 1 / 0",
    "select from nothing",
    "do $$ begin raise exception 'x' using errcode = 'ZZ999'; end $$",
  ];
  for (const statement of statements) {
    const error = await errorOf(database.superuser, [statement]);
    expect(translate(error)).toBe(error);
  }
  for (const value of [
    new Error("RL101"),
    { code: "RL101" },
    "RL101",
    undefined,
    new AppError("not_found"),
  ]) {
    expect(translate(value)).toBe(value);
  }
});

test("an AppError takes its status from its code and its message from its name", () => {
  for (const code of Object.keys(ERRORS) as ErrorCode[]) {
    expect(new AppError(code)).toMatchObject({
      code,
      message: code,
      status: ERRORS[code].status,
      detail: {},
    });
  }
  const cause = new Error("why");
  const error = new AppError("focus_invalid", {
    message: "line 2",
    detail: { line: 2 },
    hint: "Look.",
    cause,
  });
  expect(error).toMatchObject({
    message: "line 2",
    detail: { line: 2 },
    hint: "Look.",
    cause,
    sqlstate: undefined,
  });
});
