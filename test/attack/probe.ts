// Runs statements that are not ours as the tenant role, inside a transaction that entered a tenant, and reads all that
// comes back: every cell of every row, every field of an error, notices, notifications.
import type pg from "pg";
import type { TestDatabase } from "../support/database.ts";
import { type Answer, type Ear, openEar } from "./ear.ts";
import { type AttackScene, OWN_WORD } from "./scene.ts";

/** The parts of a test database that an attack needs. */
export type AttackDatabase = Pick<TestDatabase, "name" | "url" | "superuser" | "addTenant" | "ticket"> & {
  worker: Pick<TestDatabase["worker"], "pool">;
};

/** A canary that came back, and from which statement. `where` is a row, an error, a notice, or the connection itself. */
export type Finding = { canary: string; where: string; statement: string };

/** How a run went, statement by statement; `codes` counts SQLSTATEs. */
export type Tally = {
  statements: number;
  succeeded: number;
  withRows: number;
  rows: number;
  /** Of the statements that name a table or function of ours. */
  ours: { statements: number; succeeded: number; withRows: number };
  /** Answers in which a row of the attacker's own tenant can be told. */
  sawOwnRow: number;
  /** Statements that gave no answer in time, so that the connection was destroyed. */
  hung: number;
  codes: Record<string, number>;
};

/** What an attacker is on one connection. */
export type Probe = {
  readonly tally: Tally;
  readonly findings: Finding[];
  /** Runs statements in one transaction of the tenant, each in a savepoint that is kept when it succeeds. */
  session(statements: string[], as?: "tenant" | "login"): Promise<void>;
  end(): Promise<void>;
};

const NAMES_OURS = /\b(app|tenant|app_private|ops|graphile_worker)\./;

/** An empty tally. */
export function newTally(): Tally {
  return {
    statements: 0,
    succeeded: 0,
    withRows: 0,
    rows: 0,
    ours: { statements: 0, succeeded: 0, withRows: 0 },
    sawOwnRow: 0,
    hung: 0,
    codes: {},
  };
}

/** A connection of the service that attacks. A statement may take `timeoutMs`; two seconds more and it is cut off. */
export function openProbe(
  database: AttackDatabase,
  scene: AttackScene,
  { timeoutMs = 300, tally = newTally() }: { timeoutMs?: number; tally?: Tally } = {},
): Probe {
  const findings: Finding[] = [];
  let ear: Ear | undefined;
  let known = "";

  function judge(statement: string, answer: Answer): void {
    const ours = NAMES_OURS.test(statement);
    count(tally, answer, ours);
    for (const { by, text } of answer.said) {
      // What an earlier statement of the session said may come back from a setting.
      const canary = scene.leak(text, known);
      if (canary !== undefined) findings.push({ canary, where: `${by}: ${text.slice(0, 500)}`, statement });
      const own = [OWN_WORD, scene.mine.tenantId].filter((word) => !known.includes(word));
      if (by === "row" && own.some((word) => text.includes(word))) tally.sawOwnRow += 1;
    }
  }
  /** One statement inside the transaction, kept when it succeeds. False when the transaction cannot go on. */
  async function probe(on: Ear, statement: string, extended: boolean): Promise<boolean> {
    await on.ask("savepoint probe");
    known += `\n${statement}`;
    const answer = await on.ask(statement, { extended });
    judge(statement, answer);
    const end = `${answer.code === "" ? "release" : "rollback to"} savepoint probe`;
    return on.isOpen && (await on.ask(end)).code === "";
  }
  async function giveBack(on: Ear): Promise<void> {
    await on.ask("commit");
    if (!on.isOpen) return;
    for (const what of await cleaned(on.client, database.superuser)) {
      findings.push({ canary: what, where: "the connection after DISCARD ALL", statement: known });
    }
  }
  return {
    tally,
    findings,
    async session(statements, as = "tenant") {
      for (let done = 0; done < statements.length; ) {
        if (ear?.isOpen !== true) ear = await openEar(database.url("holdfast_service"), timeoutMs + 2_000);
        known = "";
        await ear.ask("begin");
        const values = [scene.mine.tenantId, database.ticket(scene.mine.tenantId)];
        const entered = await ear.ask("select app.enter($1, $2)", { values });
        if (entered.code !== "") throw new Error(`app.enter: ${JSON.stringify(entered)}`);
        // Compiling a huge plan takes seconds in which no timeout is heard.
        await ear.ask(`set local jit = off; set local statement_timeout = ${timeoutMs}`);
        if (as === "tenant") await ear.ask("set local role holdfast_tenant");
        // What breaks the connection or ends the transaction does not save the statements after it.
        for (let goesOn = true; goesOn && done < statements.length; done += 1) {
          goesOn = await probe(ear, statements[done]!, done % 2 === 1);
        }
        if (ear.isOpen) await giveBack(ear);
      }
    },
    async end() {
      await ear?.end();
    },
  };
}

function count(tally: Tally, { code, rows }: Answer, ours: boolean): void {
  tally.statements += 1;
  tally.rows += rows;
  if (code === "") tally.succeeded += 1;
  else if (code === "lost") tally.hung += 1;
  else tally.codes[code] = (tally.codes[code] ?? 0) + 1;
  if (rows > 0) tally.withRows += 1;
  if (!ours) return;
  tally.ours.statements += 1;
  if (code === "") tally.ours.succeeded += 1;
  if (rows > 0) tally.ours.withRows += 1;
}

/** What is left on a connection of the service that has been given back and cleaned: nothing. */
export async function cleaned(client: pg.ClientBase, superuser: pg.Pool): Promise<string[]> {
  await client.query("rollback");
  await client.query("discard all");
  return leftOn(client, superuser);
}

/** What of its session outlives a transaction, one line each. */
export async function leftOn(client: pg.ClientBase, superuser: pg.Pool): Promise<string[]> {
  const { rows } = await client.query({ text: LEFT, rowMode: "array" });
  const { rows: locks } = await superuser.query<{ mode: string }>(
    "select mode from pg_locks where locktype = 'advisory' and pid = $1",
    [(client as unknown as { processID: number }).processID],
  );
  return [...rows.map(String), ...locks.map(({ mode }) => `advisory ${mode}`)];
}

const LEFT = `
  select 'user ' || current_user as left where current_user <> session_user
  union all select 'user ' || session_user where session_user <> 'holdfast_service'
  union all select 'app.tenant ' || current_setting('app.tenant', true)
    where coalesce(current_setting('app.tenant', true), '') <> ''
  union all select 'row_security on' where current_setting('row_security') <> 'off'
  union all select 'setting ' || name || ' ' || setting from pg_settings
    where source = 'session' and name <> 'transaction_isolation'
  union all select 'cursor ' || name from pg_cursors where name <> ''
  union all select 'prepared statement ' || name from pg_prepared_statements where name <> ''
  union all select 'channel ' || channel from pg_listening_channels() as channel
  union all select 'temp table ' || relname from pg_class where relnamespace = pg_my_temp_schema()`;
