// Without a tenant, no statement on tenant data is answered with silence: eighteen statements, on every table, partition
// and view, empty and full, whatever the session holds in the place of a tenant.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { type AttackScene, attackScene, OWN_WORD } from "./scene.ts";
import { type Relation, relationsWithTenant } from "./support/relations.ts";
import { openSession, outcomeOf, type Session } from "./support/session.ts";
import { PLANNED_AWAY, STATEMENTS, statementOn } from "./support/statements.ts";

/** What row security says: before it looks at the plan, or from within it. */
const REFUSED = /^42501 check_enable_rls$/;
const RAISED = /^RL101 exec_stmt_raise$/;
const RAISED_OR_DENIED = /^(RL101 exec_stmt_raise|42501 aclcheck_error)$/;
const RAISED_OR_EMPTY = /^(RL101 exec_stmt_raise|silent, 0 rows)$/;

const database = testDatabase();
const sessions: Session[] = [];
/** Tables, their partitions, and fences. */
let relations: Relation[];
let tables: Relation[];
let fences: Relation[];

beforeAll(async () => {
  relations = await relationsWithTenant(database);
  tables = relations.filter(({ view }) => !view);
  fences = relations.filter(({ view }) => view);
});

/** Whoever speaks: the tenant role over the login of the service, or the owner of the tables. */
const SPEAKERS = ["holdfast_tenant", "holdfast_owner"] as const;
type Speaker = (typeof SPEAKERS)[number];

async function speakAs(speaker: Speaker): Promise<Session> {
  const login = speaker === "holdfast_tenant" ? "holdfast_service" : "holdfast_admin";
  const session = await openSession({ connectionString: database.url(login) });
  sessions.push(session);
  expect(await session.ask(`set role ${speaker}`)).toMatchObject({ error: undefined });
  return session;
}

const UNSET = "select 1";
/** What stands where the tenant should stand. */
const CONTEXTS: [string, string][] = [
  ["unset", UNSET],
  ["left empty by an earlier transaction", "begin; set local app.tenant = 'x'; commit"],
  ["malformed", "set app.tenant = 'x'"],
  ["of the right form under no seal", `set app.tenant = '${"0".repeat(36)}.${"0".repeat(64)}'`],
];

/** Asks the statements of all of these; gives what was not said as expected. */
async function surprises(session: Session, expected: RegExp, of: readonly Relation[]): Promise<string[]> {
  const found: string[] = [];
  for (const { name, view } of of) {
    for (const { text, onView } of STATEMENTS) {
      if (view && !onView) continue;
      const said = outcomeOf(await session.ask(statementOn(text, name)));
      if (!expected.test(said)) found.push(`${said}: ${statementOn(text, name)}`);
    }
  }
  return found;
}

afterAll(async () => {
  await Promise.all(sessions.map((session) => session.end()));
});

/** Partitions are as good as one another: each is tried once. */
const tablesFor = (before: string) => tables.filter((table) => !table.partition || before === UNSET);

function matrix(): void {
  describe.each(SPEAKERS)("%s", (speaker) => {
    test.each(CONTEXTS)("is refused while row_security is off: %s", async (_what, before) => {
      const session = await speakAs(speaker);
      // The login of the service has it so by itself.
      if (speaker === "holdfast_owner") await session.ask("set row_security = off");
      expect((await session.ask("show row_security")).rows).toEqual([{ row_security: "off" }]);
      await session.ask(before);
      expect(await surprises(session, REFUSED, [...tablesFor(before), ...fences])).toEqual([]);
    });
  });

  test.each(CONTEXTS)("holdfast_owner is refused while row_security is on: %s", async (_what, before) => {
    const session = await speakAs("holdfast_owner");
    await session.ask("set row_security = on");
    await session.ask(before);
    expect(await surprises(session, RAISED, tablesFor(before))).toEqual([]);
  });

  test.each(CONTEXTS)(
    "holdfast_tenant is refused when it turns row_security on: %s",
    async (_what, before) => {
      const session = await speakAs("holdfast_tenant");
      await session.ask("set row_security = on");
      await session.ask(before);
      // A table is not even the tenant role's to read. What is found silent here, the test below looks into.
      expect(await surprises(session, RAISED_OR_DENIED, tablesFor(before))).toEqual([]);
      expect(await surprises(session, RAISED_OR_EMPTY, fences)).toEqual([]);
    },
  );
}

describe("while no tenant has ever been", () => {
  test("every table of a tenant is empty", async () => {
    for (const { name } of tables) {
      const { rows } = await database.superuser.query(`select from ${name} limit 1`);
      expect(rows, name).toEqual([]);
    }
    expect(STATEMENTS).toHaveLength(18);
    expect(tables.length).toBeGreaterThan(40);
    expect(fences.length).toBeGreaterThanOrEqual(16);
  });

  matrix();
});

describe("with the rows of two tenants in every table", () => {
  let scene: AttackScene;

  beforeAll(async () => {
    scene = await attackScene(database);
    await database.superuser.query("analyze");
  });

  matrix();

  test("what the planner drops is refused by default", async () => {
    const session = await speakAs("holdfast_tenant");
    for (const { name } of relations) {
      for (const text of PLANNED_AWAY) {
        const said = outcomeOf(await session.ask(statementOn(text, name)));
        expect(said, statementOn(text, name)).toMatch(REFUSED);
      }
    }
  });

  // A session may turn row_security on by itself: PostgreSQL has no right that forbids it.
  test("with row_security = on, only what has no table left in its plan is answered", async () => {
    const session = await speakAs("holdfast_tenant");
    await session.ask("set row_security = on");
    const texts = [...STATEMENTS.filter(({ onView }) => onView).map(({ text }) => text), ...PLANNED_AWAY];
    const answered = new Set<string>();
    for (const { name } of fences) {
      for (const text of texts) {
        const said = outcomeOf(await session.ask(statementOn(text, name)));
        if (RAISED.test(said)) continue;
        expect(said, text).toMatch(/^silent, [01] rows$/);
        const { rows } = await session.ask(`explain (format json) ${statementOn(text, name)}`);
        expect(JSON.stringify(rows), text).toContain("Node Type");
        expect(JSON.stringify(rows), text).not.toContain("Relation Name");
        answered.add(text);
      }
    }
    expectNothingOf(session, scene);
    const expected = [...PLANNED_AWAY, "select * from $t where false"];
    expect(expected).toEqual(expect.arrayContaining([...answered]));
    expect(answered.size).toBeGreaterThanOrEqual(expected.length - 1); // 15 plans one more of them
  });

  test("what a role has no right to is refused as that, and changes nothing", async () => {
    const before = await scene.foreignFingerprints();
    const session = await speakAs("holdfast_tenant");
    for (const { name } of tables) {
      for (const text of [
        `truncate ${name}`,
        `begin; lock table ${name} in row exclusive mode`,
        `comment on table ${name} is 'x'`,
        `create policy open on ${name} using (true)`,
      ]) {
        expect((await session.ask(text)).error, text).toMatchObject({ code: "42501" });
        await session.ask("rollback");
      }
    }
    expect(await scene.foreignFingerprints()).toEqual(before);
  });

  test("a plan that a good transaction left behind is refused, or with row_security = on reads no row", async () => {
    const session = await speakAs("holdfast_tenant");
    await session.ask("reset role");
    await session.ask("begin");
    await session.ask("select app.enter($1, $2)", [
      scene.mine.tenantId,
      database.ticket(scene.mine.tenantId),
    ]);
    await session.ask("set local role holdfast_tenant; set plan_cache_mode = force_generic_plan");
    const kept = fences.flatMap(({ name }) =>
      STATEMENTS.filter(({ text, onView }) => onView && text.startsWith("select")).map(({ text }) => ({
        text,
        name,
      })),
    );
    for (const [number, { text, name }] of kept.entries()) {
      const made = await session.ask(
        `prepare kept_${number} as ${statementOn(text, name)}; execute kept_${number}`,
      );
      expect(made.error, text).toBeUndefined();
    }
    await session.ask("commit");
    expect(session.heard.join("\n")).toContain(OWN_WORD); // the plans do read something
    session.heard.length = 0;

    // Not before row_security is on: a plan that was refused once is made anew, and then refused either way.
    await session.ask("set role holdfast_tenant; set row_security = on");
    const wantNothing = ["select * from $t where false", "select 1 from $t limit 0"];
    expect(await answeredTexts()).toEqual(wantNothing);
    // Where a table has no row at all, there is none for which the tenant would be asked.
    await emptyTables();
    expect(await answeredTexts()).toContain("select * from $t");
    expectNothingOf(session, scene);

    await session.ask("set row_security = off");
    for (const [number, { text }] of kept.entries()) {
      expect(outcomeOf(await session.ask(`execute kept_${number}`)), text).toMatch(REFUSED);
    }

    async function answeredTexts(): Promise<string[]> {
      const answered = new Set<string>();
      for (const [number, { text }] of kept.entries()) {
        const answer = await session.ask(`execute kept_${number}`);
        if (RAISED.test(outcomeOf(answer))) continue;
        expect(answer.error, text).toBeUndefined();
        expect([[], [{ count: "0" }], [{ exists: false }]], text).toContainEqual(answer.rows);
        answered.add(text);
      }
      return [...answered].sort();
    }
  });
});

/** Deletes every row of every tenant; plans stay as they are. */
async function emptyTables(): Promise<void> {
  const client = await database.superuser.connect();
  try {
    await client.query("begin; set local session_replication_role = replica");
    for (const { name } of tables) await client.query(`delete from ${name}`);
    await client.query("commit");
  } finally {
    client.release(true);
  }
}

function expectNothingOf(session: Session, scene: AttackScene): void {
  const heard = session.heard.join("\n");
  expect(scene.leak(heard)).toBeUndefined();
  expect(heard).not.toContain(OWN_WORD);
}
