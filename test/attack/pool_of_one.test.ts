// One connection, two tenants in turns, and between them all that goes wrong: errors, refusals, aborts, timeouts, killed
// backends, a tenant that is suspended. What one has left, the other never meets.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { call, createPool, type Db } from "../../src/db.ts";
import { AppError } from "../../src/errors.ts";
import { type Random, randomFrom } from "../../src/sample/random.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import { testDatabase } from "../support/database.ts";
import { cleaned, leftOn } from "./probe.ts";
import { type AttackScene, attackScene } from "./scene.ts";

const SEED = Number(process.env["POOL_SEED"] ?? 1);
const STEPS = Number(process.env["POOL_STEPS"] ?? 250);

const database = testDatabase();
let scene: AttackScene;
let db: Db;

beforeAll(async () => {
  scene = await attackScene(database);
  db = {
    pool: createPool({
      connectionString: database.url("holdfast_service"),
      application_name: "pool of one",
      max: 1,
    }),
    ticketKey: TEST_TICKET_KEY,
  };
  // What no function of the contract does: it leaves what an error does not undo, a plan and a lock, and then fails.
  await database.superuser.query(`
    create function app.leave(tenant_id uuid, ticket text, what text) returns setof text language plpgsql
    security definer as $$
    begin
      perform app.enter(tenant_id, ticket);
      perform set_config('search_path', 'app', false), set_config('row_security', 'on', false),
              pg_advisory_lock(42);
      execute format('prepare left_over as select %L', tenant_id);
      if what = 'an error' then raise exception 'left by %', tenant_id; end if;
      raise exception using errcode = 'JB101', message = 'job_run_not_found', detail = '{}';
    end $$;
    create function app.linger(tenant_id uuid, ticket text, seconds float8) returns setof text language plpgsql
    security definer as $$
    begin
      perform app.enter(tenant_id, ticket);
      return query select f.why from app.findings as f where f.tenant_id = linger.tenant_id;
      perform pg_sleep(seconds);
    end $$;
    revoke execute on function app.leave, app.linger from public;
    grant execute on function app.leave, app.linger to holdfast_service`);
});
afterAll(() => db.pool.end());

const Findings = z.object({ id: z.string(), headline: z.string(), why: z.string() });
type Whose = "mine" | "foreign";
const idOf = (whose: Whose) => scene[whose].tenantId;
const listed = (whose: Whose, signal?: AbortSignal) =>
  call(db, idOf(whose), "select * from app.findings_list($1, $2)", [], Findings.loose(), { signal });

/** Everything in an error that might be read by somebody. */
const told = (error: unknown): string =>
  JSON.stringify(error, (_, value) =>
    value instanceof Error ? { ...value, message: value.message, cause: value.cause } : value,
  );

/** Fails where an answer for one tenant holds what is the other's. */
function expectOnly(whose: Whose, text: string): void {
  if (whose === "mine") expect(scene.leak(text)).toBeUndefined();
  else {
    expect(text).not.toContain("ownrow");
    expect(text).not.toContain(scene.mine.tenantId);
  }
}

/** What a tenant does, well or badly; each ends with an answer, or an error that is expected. */
const DEEDS: Record<string, (whose: Whose, random: Random) => Promise<unknown>> = {
  "lists its findings": (whose) => listed(whose),
  "asks for its budget": (whose) =>
    call(db, idOf(whose), "select * from app.budget_status($1, $2)", [], z.object({}).loose()),
  "asks for an analysis": (whose, random) =>
    call(
      db,
      idOf(whose),
      "select * from app.analysis_request($1, $2, 'offline', 'offline-analyst', 10, 10, $3)",
      [`key ${Math.floor(random.uniform() * 5)}`],
      z.object({}).loose(),
    ),
  "is refused: an id of the other": (whose) =>
    call(
      db,
      idOf(whose),
      "select * from app.analysis_get($1, $2, $3)",
      [scene.ids[whose === "mine" ? "foreign" : "mine"]["app.analyses.id"]![0]],
      z.object({}).loose(),
    ),
  "is refused: the other's tenant": (whose) =>
    call(
      db,
      idOf(whose),
      "select * from app.findings_list($3, $2) where $1::uuid is not null",
      [idOf(whose === "mine" ? "foreign" : "mine")],
      Findings,
    ),
  "divides by nothing": (whose) =>
    call(db, idOf(whose), "select app.enter($1, $2), 1 / $3::int", [0], z.object({}).loose()),
  "makes a mistake of syntax": (whose) => call(db, idOf(whose), "selec $1, $2", [], z.object({})),
  "answers in a shape that nobody expects": (whose) =>
    call(db, idOf(whose), "select * from app.findings_list($1, $2)", [], z.object({ nothing: z.string() })),
  "takes too long": (whose) =>
    call(db, idOf(whose), "select app.linger($1, $2, 5) as it", [], z.object({}).loose(), { timeoutMs: 30 }),
  "is given up": async (whose, random) => {
    const abort = new AbortController();
    setTimeout(() => abort.abort(new Error("given up")), 5 + 30 * random.uniform());
    const text = "select app.linger($1, $2, 0.2) as it";
    return call(db, idOf(whose), text, [], z.object({}).loose(), { signal: abort.signal });
  },
  "is given up before it began": (whose) => listed(whose, AbortSignal.abort(new Error("given up"))),
  "is killed": async (whose) => {
    const killed = call(db, idOf(whose), "select app.linger($1, $2, 2) as it", [], z.object({}).loose());
    killed.catch(() => {});
    await sleep(20);
    await kill();
    return killed;
  },
  "is killed while idle": async (whose) => {
    await kill();
    await sleep(20);
    return listed(whose);
  },
  "is suspended": async (whose) => {
    const set = (status: string) =>
      database.superuser.query("update app.tenants set status = $2 where tenant_id = $1", [
        idOf(whose),
        status,
      ]);
    await set("SUSPENDED");
    return listed(whose).finally(() => set("ACTIVE"));
  },
  ...Object.fromEntries(
    ["an error", "a refusal"].map((what) => [
      `leaves a plan and a lock, and ${what}`,
      (whose: Whose) =>
        call(db, idOf(whose), "select app.leave($1, $2, $3) as it", [what], z.object({}).loose()),
    ]),
  ),
};

/** Ends every backend of the pool. */
async function kill(): Promise<void> {
  await database.superuser.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where application_name = 'pool of one' and datname = current_database()`,
  );
}

/** What the next borrower finds on the one connection. */
async function leftBehind(): Promise<string[]> {
  const client = await db.pool.connect();
  try {
    return await leftOn(client, database.superuser);
  } finally {
    client.release();
  }
}

test(`${STEPS} turns: each answer is of its own tenant, and the connection is clean after it`, async () => {
  const random = randomFrom(SEED);
  const names = Object.keys(DEEDS);
  const done: string[] = [];
  const outcomes: Record<string, number> = {};
  for (let step = 0; step < STEPS; step += 1) {
    const whose: Whose = random.uniform() < 0.5 ? "mine" : "foreign";
    const name = names[Math.floor(random.uniform() * names.length)]!;
    done.push(`${whose} ${name}`);
    const outcome = await DEEDS[name]!(whose, random).then(
      (rows) => ({ rows }),
      (error: unknown) => ({ error }),
    );
    const story = `seed ${SEED}: ${done.slice(-6).join("; ")}`;
    if ("error" in outcome) {
      const text = told(outcome.error);
      // What it sent itself may come back, the other's tenant id too; never the other's rows.
      if (whose === "mine")
        expect(scene.leak(text, scene.foreign.tenantId + JSON.stringify(scene.ids)), story).toBeUndefined();
      else expect(text, story).not.toContain("ownrow");
      const { error } = outcome;
      const code =
        error instanceof AppError ? error.code : error instanceof pg.DatabaseError ? error.code : "other";
      outcomes[`${name}: ${code}`] = (outcomes[`${name}: ${code}`] ?? 0) + 1;
    } else {
      expectOnly(whose, JSON.stringify(outcome.rows));
      outcomes[`${name}: done`] = (outcomes[`${name}: done`] ?? 0) + 1;
    }
    expect(await leftBehind(), story).toEqual([]);
    const next: Whose = whose === "mine" ? "foreign" : "mine";
    const rows = await listed(next);
    expect(rows.length, story).toBeGreaterThan(0);
    expectOnly(next, JSON.stringify(rows));
    expect(db.pool.totalCount, story).toBe(1);
  }
  console.info(`pool of one, seed ${SEED}: ${JSON.stringify(outcomes)}`);
  for (const name of names) {
    const ways = Object.keys(outcomes).filter((outcome) => outcome.startsWith(`${name}: `));
    const well = /^(lists|asks|is killed while idle)/.test(name);
    expect(
      ways.some((way) => way.endsWith(": done") === well),
      `${name}: ${ways.join()}`,
    ).toBe(true);
  }
}, 120_000);

describe("the look at the connection sees what is left", () => {
  test.each([
    ["a role", "begin; set role holdfast_tenant; commit", "user holdfast_tenant"],
    ["a setting", "set search_path = app", "setting search_path app"],
    ["row security", "set row_security = on", "row_security on"],
    ["a tenant", "set app.tenant = 'x'", "app.tenant x"],
    ["a cursor", "begin; declare loot cursor with hold for select 1; commit", "cursor loot"],
    ["a prepared statement", "prepare loot as select 1", "prepared statement loot"],
    ["a channel", "listen loot", "channel loot"],
  ])("%s", async (_what, text, left) => {
    const client = new pg.Client({ connectionString: database.url("holdfast_service") });
    await client.connect();
    try {
      expect(await leftOn(client, database.superuser)).toEqual([]);
      await client.query(text);
      expect(await leftOn(client, database.superuser)).toContain(left);
      expect(await cleaned(client, database.superuser)).toEqual([]);
    } finally {
      await client.end();
    }
  });
});

test("calls that wait for the one connection each get their own tenant's rows", async () => {
  const turns = Array.from({ length: 60 }, (_, n): Whose => (n % 3 === 0 ? "foreign" : "mine"));
  const answers = await Promise.allSettled(
    turns.map((whose, n) =>
      n % 7 === 0 ? DEEDS["divides by nothing"]!(whose, randomFrom(n)) : listed(whose),
    ),
  );
  for (const [n, answer] of answers.entries()) {
    expect(answer.status, `call ${n}`).toBe(n % 7 === 0 ? "rejected" : "fulfilled");
    if (answer.status === "fulfilled") expectOnly(turns[n]!, JSON.stringify(answer.value));
  }
});
