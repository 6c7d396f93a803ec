// Whoever may write any text for the tenant role tries to get out: after every attempt, nothing of another tenant has
// been read or changed, and the connection serves whoever is next.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { mintTicket } from "../../src/tickets.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import type { Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { type AttackScene, attackScene, CANARY_WORD, OWN_WORD } from "./scene.ts";
import { ESCAPES, type Escape, READ } from "./support/escapes.ts";
import { relationsWithTenant } from "./support/relations.ts";
import { secretForms } from "./support/secrets.ts";
import { openSession, outcomeOf, type Session } from "./support/session.ts";

const database = testDatabase();
let scene: AttackScene;
let mine = "";
let foreign = "";
/** Another session of the same login, whose last statement has said a secret. */
let neighbour: Session;
/** Through which the tenant role reads. */
let fences: string[];
let before: Record<string, string>;
/** What the database alone knows. */
let secrets: string[];

const connect = () => openSession({ connectionString: database.url("holdfast_service") });

beforeAll(async () => {
  scene = await attackScene(database);
  mine = scene.mine.tenantId;
  foreign = scene.foreign.tenantId;
  await database.superuser.query("analyze");
  fences = (await relationsWithTenant(database)).filter(({ view }) => view).map(({ name }) => name);
  secrets = await secretForms(database);
  neighbour = await connect();
  await neighbour.ask(`select '${CANARY_WORD} in the text of a neighbour'`);
  before = await scene.foreignFingerprints();
});

afterAll(async () => {
  await neighbour.end();
});

/** A ticket for this very session. */
const ticketFor = (session: Session, tenantId: string) => mintTicket(TEST_TICKET_KEY, tenantId, session.pid);

/** Begins a transaction of a tenant, as the tenant role; gives what refused it. */
async function begin(session: Session, tenantId: string): Promise<string | undefined> {
  for (const [text, values] of [
    ["begin", undefined],
    ["select app.enter($1, $2)", [tenantId, ticketFor(session, tenantId)]],
    ["set local role holdfast_tenant", undefined],
  ] as const) {
    const answer = await session.ask(text, values === undefined ? undefined : [...values]);
    if (answer.error !== undefined) return outcomeOf(answer);
  }
  return undefined;
}

/** Sends a message so that the transaction goes on after an error, as an attacker would. */
async function tryOut(session: Session, text: string): Promise<string> {
  const status = () => session.client.getTransactionStatus();
  const guarded = status() === "T";
  if (guarded) await session.ask("savepoint guard");
  const said = outcomeOf(await session.ask(text));
  await session.ask(""); // an error is told before the state that it leaves
  if (status() === "E") {
    const { error } = await session.ask("rollback to guard");
    if (error !== undefined) await session.ask("rollback");
  }
  return said;
}

/** The statements of one step, with what they speak of filled in. */
function messages(step: string, session: Session): string[] {
  if (step === READ) return fences.map((name) => `select * from ${name}`);
  const words: Record<string, string> = {
    $FOREIGN: foreign,
    $MINE: mine,
    $TICKET: ticketFor(session, mine),
    $STOLEN: ticketFor(session, foreign),
    $RUN: scene.ids.foreign["app.job_runs.id"]![0]!,
    $NEIGHBOUR: String(neighbour.pid),
    $DATABASE: database.name,
  };
  return [step.replace(/\$[A-Z]+/g, (word) => words[word] ?? word)];
}

/** What was heard, without what the attacker said itself. */
function learned(session: Session): string {
  let text = session.heard.join("\n");
  const given = [foreign, ticketFor(session, foreign), scene.ids.foreign["app.job_runs.id"]![0]!];
  for (const each of given) text = text.replaceAll(each, "<given>");
  return text;
}

/** Nothing of another tenant was heard, and nothing that only the database knows. */
function expectNothingLearned(session: Session): void {
  const text = learned(session);
  expect(scene.leak(text)).toBeUndefined();
  const unbroken = text.replace(/(\\n|\s)+/g, " "); // long lists are printed in lines
  expect(secrets.filter((secret) => unbroken.includes(secret))).toEqual([]);
}

/** Tries the steps of an escape; gives how each ended. */
async function attempt(
  session: Session,
  tried: Escape,
): Promise<{ step: string; text: string; said: string }[]> {
  const outcomes = [];
  for (const step of tried.steps) {
    for (const text of messages(step, session)) {
      outcomes.push({ step, text, said: await tryOut(session, text) });
    }
  }
  return outcomes;
}

/** What a session may still hold from before: cursors, plans, settings, locks, messages. */
const LOOT = [
  "select * from pg_cursors",
  "fetch all from held",
  "fetch all from lazy",
  "select * from pg_prepared_statements",
  "execute left_behind",
  "execute left_behind_too",
  "select * from pg_settings where source = 'session'",
  "select current_setting('app.tenant', true), current_setting('app.kept', true), current_query()",
  "select lastval()",
  "select * from pg_listening_channels()",
];

/** Everybody has their turn on the connection as the attack has left it; gives what the other tenant was told. */
async function nextTurns(session: Session): Promise<void> {
  await session.ask("rollback");
  const mark = session.heard.length;
  // The victim: served with its own rows, or refused; never with those of the attacker.
  const refusal = await begin(session, foreign);
  if (refusal === undefined) {
    for (const name of ["tenant.tenants", "tenant.findings"]) {
      const { rows } = await session.ask(`select * from ${name}`);
      for (const row of rows as Row[]) expect(row["tenant_id"]).toBe(foreign);
    }
    for (const text of LOOT.slice(1)) await tryOut(session, text);
  }
  await session.ask("rollback");
  const told = session.heard.splice(mark).join("\n");
  if (refusal === undefined) expect(told).toContain(CANARY_WORD);

  // The attacker once more.
  expect(await begin(session, mine)).toBe(refusal);
  for (const text of LOOT) await tryOut(session, text);
  await session.ask("rollback");

  // And, after the one statement with which the shell cleans up, everybody as on the first day.
  await session.ask("discard all");
  for (const [tenantId, word] of [
    [mine, OWN_WORD],
    [foreign, CANARY_WORD],
  ] as const) {
    expect(await begin(session, tenantId)).toBeUndefined();
    const { rows } = await session.ask("select * from tenant.tenants");
    expect(rows).toMatchObject([{ tenant_id: tenantId, name: expect.stringContaining(word) }]);
    await session.ask("rollback");
    if (tenantId === foreign) session.heard.pop();
  }
  await session.ask("set role holdfast_tenant");
  expect(outcomeOf(await session.ask("select * from tenant.tenants"))).toBe("42501 check_enable_rls");
  expect(
    (await session.ask("select coalesce(current_setting('app.tenant', true), '') as tenant")).rows,
  ).toEqual([{ tenant: "" }]);
}

describe("an attempt", () => {
  test.each(ESCAPES)("$name", async (tried) => {
    const session = await connect();
    try {
      expect(await begin(session, mine)).toBeUndefined();
      const outcomes = await attempt(session, tried);

      expectNothingLearned(session);
      for (const { step, text, said } of outcomes) {
        // An attempt that PostgreSQL cannot even read is none.
        expect(said, text).not.toMatch(/^(42601|42P01|42703|42P02|42804) /);
        if (step === READ && tried.reads !== undefined) {
          expect(said, text).toMatch(tried.reads === "own" ? /^silent/ : /^(RL101|42501) /);
        }
        if (step !== READ && tried.refused !== undefined) {
          expect(said.split(" ")[0], text).toMatch(tried.refused);
        }
        if (tried.answered) expect(said, text).toMatch(/^silent/);
      }
      await nextTurns(session);
      expectNothingLearned(session);
      expect(await scene.foreignFingerprints()).toEqual(before);
    } finally {
      await session.end();
    }
  });
});

describe("whoever is in", () => {
  let session: Session;

  beforeEach(async () => {
    session = await connect();
    expect(await begin(session, mine)).toBeUndefined();
  });

  afterEach(async () => {
    await session.ask("rollback");
    try {
      expectNothingLearned(session);
      await nextTurns(session);
    } finally {
      await session.end();
    }
    expect(await scene.foreignFingerprints()).toEqual(before);
  });

  test("becomes no other role than the tenant role and the login that it came from", async () => {
    const { rows } = await database.superuser.query<{ name: string }>(
      "select rolname as name from pg_roles order by 1",
    );
    expect(rows.length).toBeGreaterThan(15);
    const became: string[] = [];
    for (const { name } of rows) {
      for (const text of [`set local role "${name}"`, `select set_config('role', '${name}', true)`]) {
        await session.ask("savepoint one");
        if ((await session.ask(text)).error === undefined) {
          became.push(name);
          const said = await tryOut(session, "select * from app.findings");
          expect(said, text).toMatch(/^42501 /);
        }
        await session.ask("rollback to one");
      }
    }
    expect([...new Set(became)]).toEqual(["holdfast_service", "holdfast_tenant"]);
  });

  test("gets nothing out of any function of ours, as the tenant role or as the login, with any of its tickets", async () => {
    const { rows } = await database.superuser.query<{ name: string; types: string[]; ticketed: boolean }>(
      `select p.oid::regproc::text as name, p.proargnames[1:2] is not distinct from '{tenant_id,ticket}' as ticketed,
         array(select format_type(t, null) from unnest(p.proargtypes) as t) as types
       from pg_proc as p
       where p.pronamespace::regnamespace::text in ('app', 'app_private', 'ops', 'graphile_worker', 'graphile_migrate')
         and p.prokind = 'f' and p.prorettype <> 'trigger'::regtype
       order by 1`,
    );
    expect(rows.length).toBeGreaterThan(100);
    const answered = new Set<string>();
    for (const role of ["holdfast_tenant", "holdfast_service"]) {
      await session.ask(`set local role ${role}`);
      for (const { name, types, ticketed } of rows) {
        const rest = (from: number) => types.slice(from).map((type) => `null::${type}`);
        const calls = [rest(0)];
        if (ticketed) {
          for (const ticket of [mine, foreign].map((each) => `'${ticketFor(session, each)}'`)) {
            calls.push([`'${foreign}'`, ticket, ...rest(2)]);
          }
        }
        for (const given of calls) {
          const said = await tryOut(session, `select * from ${name}(${given.join(", ")})`);
          if (said.startsWith("silent")) answered.add(`${role} ${name}`);
          else expect(said, name).toMatch(/^(42501|RL101|0A000) /);
        }
      }
    }
    expect([...answered].sort()).toEqual([
      "holdfast_service app.migration_applied",
      "holdfast_service app.ticket_binding",
      "holdfast_service app.ticket_check",
      "holdfast_tenant app_private.current_tenant_id",
      "holdfast_tenant app_private.require",
    ]);
  });

  test("cannot use the seal of another session, nor of another transaction of its own", async () => {
    const other = await connect();
    try {
      for (const [holder, tenantId] of [
        [other, foreign],
        [other, mine],
        [session, mine],
      ] as const) {
        await holder.ask("rollback");
        expect(await begin(holder, tenantId)).toBeUndefined();
        const { rows } = await holder.ask("select current_setting('app.tenant') as seal");
        const { seal } = rows[0] as { seal: string };
        expect(seal.slice(0, 36)).toBe(tenantId);
        if (holder === session) {
          await session.ask("commit");
          await session.ask("begin");
        }
        await session.ask("set local role holdfast_tenant; set local row_security = on");
        for (const text of [`set local app.tenant = '${seal}'`, `set app.tenant = '${seal}'`]) {
          await session.ask(text);
          for (const name of fences) {
            expect(await tryOut(session, `select * from ${name}`), name).toMatch(/^RL101 /);
          }
        }
        session.heard.splice(0);
      }
    } finally {
      await other.ask("rollback");
      await other.end();
    }
  });

  test("runs the plans of others for its own rows alone", async () => {
    await session.ask("rollback");
    for (const name of fences) {
      const plan = `plan_of_${name.replace(".", "_")}`;
      for (const tenantId of [foreign, mine]) {
        const mark = session.heard.length;
        // From the sixth run on, the plan is a generic one that stays.
        for (let turn = 0; turn < 7; turn += 1) {
          expect(await begin(session, tenantId)).toBeUndefined();
          if (tenantId === foreign && turn === 0) {
            await session.ask(`prepare ${plan} (text) as select * from ${name} where tenant_id::text <> $1`);
          }
          const { rows, error } = await session.ask(`execute ${plan} ('')`);
          expect(error).toBeUndefined();
          expect(rows.length).toBeGreaterThan(0);
          for (const row of rows as Row[]) expect(row["tenant_id"]).toBe(tenantId);
          await session.ask("commit");
        }
        if (tenantId === foreign) session.heard.splice(mark);
      }
    }
  });
});

// What is said in the limits of the promise: each is here so that it is known when it ceases to be so.
describe("what the promise leaves out", () => {
  test("a stolen ticket, good for this very session, opens its tenant once the setting is cleared", async () => {
    const session = await connect();
    try {
      expect(await begin(session, mine)).toBeUndefined();
      await session.ask("reset app.tenant");
      const stolen = ticketFor(session, foreign);
      expect(await session.ask("select app.enter($1, $2)", [foreign, stolen])).toMatchObject({
        error: undefined,
      });
      expect((await session.ask("select tenant_id from tenant.tenants")).rows).toEqual([
        { tenant_id: foreign },
      ]);
    } finally {
      await session.end();
    }
    // Nowhere else: it names its backend.
    const elsewhere = await connect();
    const { error } = await elsewhere.ask("select app.enter($1, $2)", [
      foreign,
      ticketFor(neighbour, foreign),
    ]);
    expect(error).toMatchObject({ code: "RL101" });
    await elsewhere.end();
  });

  test("a seal lasts as long as the message in which its tenant was entered, and is its tenant's alone", async () => {
    const session = await connect();
    const enter = `begin; select app.enter('${mine}', '${ticketFor(session, mine)}')`;
    const keep = "select set_config('app.kept', current_setting('app.tenant'), false); commit";
    const next = "begin; set local role holdfast_tenant; set local row_security = on";
    const bring = "select set_config('app.tenant', current_setting('app.kept'), true)";
    const read = "select tenant_id from tenant.tenants";
    const { rows } = await session.ask([enter, keep, next, bring, read].join("; "));
    expect(rows.at(-1)).toEqual({ tenant_id: mine });
    await session.ask("rollback");
    expect((await session.ask([next, bring, read].join("; "))).error).toMatchObject({ code: "RL101" });
    await session.end();
  });

  test("LISTEN needs no right: it hears that somebody has work to do, and neither who nor what", async () => {
    const session = await connect();
    try {
      expect(await begin(session, mine)).toBeUndefined();
      for (const channel of ["jobs:insert", "worker:migrate", foreign, "app", "events", "jobs"]) {
        await session.ask(`listen "${channel}"`);
      }
      await session.ask("commit");
      const { rows } = await database.service.pool.query(
        "select run_id from app.analysis_request($1, $2, 'offline', 'offline-analyst', 10, 10)",
        [foreign, database.ticket(foreign)],
      );
      const told = () => session.heard.filter((each) => /^[a-z:-]+ /i.test(each));
      await expect.poll(async () => (await session.ask("select 1")) && told().length).toBeGreaterThan(0);
      for (const each of told()) expect(each).toMatch(/^jobs:insert \{"r":[\d.e-]+,"count":-?\d+\}$/);
      expect(session.heard.join()).not.toContain(rows[0].run_id);
      expectNothingLearned(session);
      before = await scene.foreignFingerprints();
    } finally {
      await session.end();
    }
  });

  test("a login may change its own settings, for sessions to come; the tenant role is no login", async () => {
    const session = await connect();
    try {
      for (const [text, code] of [
        ["alter role holdfast_service set row_security = on", undefined],
        ["alter role holdfast_service password 'x'", undefined],
        ["alter role holdfast_worker set row_security = on", "42501"],
        ["alter role holdfast_ops password 'x'", "42501"],
      ] as const) {
        await session.ask("begin"); // the settings of a role are the whole server's: nothing of this is kept
        expect((await session.ask(text)).error?.code, text).toBe(code);
        await session.ask("rollback");
        expect(await begin(session, mine)).toBeUndefined();
        expect((await session.ask(text)).error, text).toMatchObject({ code: "42501" });
        await session.ask("rollback");
      }
    } finally {
      await session.end();
    }
  });

  test("what the tenant role is given stays, whatever it drops; before 18.7 its place in the policies does not", async () => {
    const version = Number(
      (await database.superuser.query("show server_version_num")).rows[0].server_version_num,
    );
    const session = await connect();
    try {
      expect(await begin(session, mine)).toBeUndefined();
      expect((await session.ask("drop owned by holdfast_tenant cascade")).error?.code).toBe("42501");
      await session.ask("rollback");

      // Where no superuser has been, no event trigger refuses it.
      await database.superuser.query("alter event trigger holdfast_no_ddl disable");
      expect(await begin(session, mine)).toBeUndefined();
      await session.ask("drop owned by holdfast_tenant cascade");
      for (const name of fences) {
        expect(outcomeOf(await session.ask(`select * from ${name}`)), name).toMatch(/^silent, [1-9]/);
      }
      if (version < 160_000 || version >= 180_007) {
        const { rows } = await session.ask(
          "select from pg_policy where polname = 'tenant_isolation' and not 'holdfast_tenant'::regrole = any (polroles)",
        );
        expect(rows).toEqual([]);
      }
      await session.ask("rollback");
      await session.ask("drop owned by holdfast_service");
      expect(await begin(session, mine)).toBeUndefined();
    } finally {
      await database.superuser.query("alter event trigger holdfast_no_ddl enable always");
      await session.ask("rollback");
      await session.end();
    }
  });
});
