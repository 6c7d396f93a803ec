// Plans are made with the statistics of all tenants, so no caller reads those of the functions that it calls.
import { afterAll, beforeAll, expect, test } from "vitest";
import { costsOf, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";
import { callOf, contractFunctions } from "./support/contract_functions.ts";
import { openSession, type Session } from "./support/session.ts";

const database = testDatabase();
const costs = costsOf(database);
const COMMON = "another tenant's source";
let mine = "";
const sessions: Session[] = [];

beforeAll(async () => {
  mine = (await database.addTenant()).tenantId;
  const theirs = (await database.addTenant()).tenantId;
  for (let month = 1; month <= 9; month += 1)
    await costs.load(theirs, [usage(`2026-0${month}-10`, 1)], COMMON);
  await database.superuser.query("analyze");
});
afterAll(async () => {
  await Promise.all(sessions.map((session) => session.end()));
});

/** A session to which the server prints every plan that it makes. */
async function eavesdrop(
  login: "holdfast_service" | "holdfast_worker" = "holdfast_service",
): Promise<Session> {
  const session = await openSession({ connectionString: database.url(login) });
  sessions.push(session);
  await session.ask("set client_min_messages = log; set debug_pretty_print = off; set debug_print_plan = on");
  return session;
}

/** The tables of ours in the plans that were heard; and forgets them. */
async function planned(session: Session): Promise<string[]> {
  const plans = session.heard.splice(0).filter((said) => said.includes("PLANNEDSTMT"));
  // A plan is broken into lines wherever they are full, and heard as JSON.
  const relids = plans.flatMap((plan) =>
    [...plan.matchAll(/:relid(?: |\\n)(\d+)/g)].map((match) => match[1]),
  );
  const { rows } = await database.superuser.query(
    "select distinct oid::regclass::text as name from pg_class where oid = any ($1::oid[]) order by 1",
    [relids],
  );
  return rows.map((row) => row.name);
}

const given = () => [mine, database.ticket(mine)];

test("the ear hears: what is planned before the tenant is entered, and what its owner asks for", async () => {
  const session = await eavesdrop();
  await session.ask("begin");
  await session.ask("select app.enter($1, $2)", given());
  expect(await planned(session)).toEqual(["app_private.seal_secret", "app_private.ticket_keys"]);
  expect((await session.ask("show debug_print_plan")).rows).toEqual([{ debug_print_plan: "off" }]);
  await session.ask("set local role holdfast_tenant; set local debug_print_plan = on");
  await session.ask("select from tenant.tenants");
  expect(await planned(session)).toEqual(["app.tenants", "tenant.tenants"]);
  await session.ask("commit");
  expect((await session.ask("show debug_print_plan")).rows).toEqual([{ debug_print_plan: "on" }]);
});

test("no function of the contract lets a plan be heard in which it reads a table", async () => {
  const functions = await contractFunctions(database);
  expect(functions.length).toBeGreaterThan(10);
  for (const each of functions) {
    const { rows } = await database.superuser.query(
      "select has_function_privilege('holdfast_service', $1::regproc, 'execute') as may",
      [each.name],
    );
    const session = await eavesdrop(rows[0].may ? "holdfast_service" : "holdfast_worker");
    const { error } = await session.ask(callOf(each), given());
    expect(error?.code ?? "", each.name).not.toMatch(/^(42501|RL101)$/);
    expect(await planned(session), each.name).toEqual(["app_private.seal_secret", "app_private.ticket_keys"]);
  }
});

test("publishing tells no cost, whether the source is the most common one of another tenant or nobody's", async () => {
  for (const source of [COMMON, "nobody's source at all"]) {
    const session = await eavesdrop();
    const importId = await costs.start(mine, source);
    await costs.add(mine, importId, [usage("2026-10-10", 1)]);
    await costs.rollUp(mine, importId);
    await session.ask("begin");
    for (const text of ["select app.enter($1, $2)", "select from app.cost_import_publish($1, $2, $3)"]) {
      await session.ask("set local debug_print_plan = on");
      session.heard.length = 0;
      const values = text.includes("$3") ? [...given(), importId] : given();
      expect(await session.ask(text, values)).toMatchObject({ error: undefined });
      expect((await planned(session)).filter((name) => !name.startsWith("app_private."))).toEqual([]);
    }
    await session.ask("rollback");
  }
});
