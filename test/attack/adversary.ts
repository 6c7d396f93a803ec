// Runs the sessions of the grammar: after each statement nothing of another tenant may have come back, and a statement
// that names an id of another tenant must be answered as one that names an id of nobody.
import { randomUUID } from "node:crypto";
import type { Random } from "../../src/sample/random.ts";
import { type Answer, type Ear, openEar } from "./ear.ts";
import { sessionsOf, vocabularyOf } from "./grammar.ts";
import { type AttackDatabase, cleaned } from "./probe.ts";
import type { AttackScene } from "./scene.ts";
import { staleTickets } from "./stale_tickets.ts";

/** What is wrong, with the statement after which it was seen. */
export type Breach = { what: string; statement: string };

/** The seeded sessions, how they went, and the shortest session that still shows what is wrong. */
export type Siege = {
  sessions: number;
  statements: number;
  succeeded: number;
  withRows: number;
  sawOwnRow: number;
  twins: number;
  codes: Record<string, number>;
  breach?: Breach & { session: string[] };
};

/** Runs `sessions` sessions, or as many as fit in `ms`. Ends at the first breach, with its session made short. */
export async function besiege(
  database: AttackDatabase,
  scene: AttackScene,
  random: Random,
  { sessions, ms = 60_000 }: { sessions: number; ms?: number },
): Promise<Siege> {
  const siege: Siege = {
    sessions: 0,
    statements: 0,
    succeeded: 0,
    withRows: 0,
    sawOwnRow: 0,
    twins: 0,
    codes: {},
  };
  const nextSession = sessionsOf(await vocabularyOf(database, scene), random);
  const attacker = new Attacker(database, scene, siege);
  const end = performance.now() + ms;
  try {
    while (siege.sessions < sessions && performance.now() < end) {
      const session = nextSession();
      siege.sessions += 1;
      const breach = await attacker.run(session);
      if (breach === undefined) continue;
      siege.breach = await shortest(attacker, session, breach);
      break;
    }
  } finally {
    await attacker.end();
  }
  return siege;
}

/** Leaves out what is not needed, one statement after the other, while the breach stays. */
async function shortest(
  attacker: Attacker,
  session: string[],
  breach: Breach,
): Promise<Breach & { session: string[] }> {
  let kept = { ...breach, session };
  for (let at = session.length - 1; at >= 0; at -= 1) {
    const shorter = kept.session.filter((_, index) => index !== at);
    const still = await attacker.run(shorter);
    if (still !== undefined) kept = { ...still, session: shorter };
  }
  return kept;
}

/** What a template is filled with: the ids of the other tenant, or ids that nobody has in their place. */
type Filling = (name: string) => string;

class Attacker {
  private ear: Ear | undefined;
  /** The rows of others, as the last session left them. */
  private others: string | undefined;
  private readonly database: AttackDatabase;
  private readonly scene: AttackScene;
  private readonly siege: Siege;

  constructor(database: AttackDatabase, scene: AttackScene, siege: Siege) {
    this.database = database;
    this.scene = scene;
    this.siege = siege;
  }

  async run(session: string[]): Promise<Breach | undefined> {
    if (this.ear?.isOpen !== true) this.ear = await openEar(this.database.url("holdfast_service"));
    const ear = this.ear;
    const before = this.others ?? (await this.rowsOfOthers());
    const [fill, twin] = this.fillings();
    let said = "";
    let breach: Breach | undefined;
    for (const template of session) {
      if (!ear.isOpen) break;
      breach ??= await this.twins(ear, template, fill, twin);
      const statement = filled(template, fill);
      said += `\n${statement}`;
      const goesOn = ear.status === "T" && !CONTROL.test(template);
      if (goesOn) await ear.ask("savepoint step");
      const answer = await ear.ask(statement, { extended: said.length % 2 === 1 });
      if (ear.isOpen && ear.failed) await ear.ask("rollback to step");
      this.count(answer);
      breach ??= this.leak(answer, said, template);
      if (breach !== undefined) break;
    }
    if (ear.isOpen) await ear.ask("commit");
    const left = ear.isOpen ? await cleaned(ear.client, this.database.superuser).catch(() => []) : [];
    if (left.length > 0)
      breach ??= { what: `left on the connection: ${left.join()}`, statement: "discard all" };
    this.others = await this.rowsOfOthers();
    if (this.others !== before)
      breach ??= { what: "a row of another tenant has changed", statement: session.at(-1) ?? "" };
    return breach;
  }

  async end(): Promise<void> {
    await this.ear?.end();
  }

  private count({ code, rows, said }: Answer): void {
    this.siege.statements += 1;
    if (code === "") this.siege.succeeded += 1;
    else this.siege.codes[code] = (this.siege.codes[code] ?? 0) + 1;
    if (rows > 0) this.siege.withRows += 1;
    if (said.some(({ by, text }) => by === "row" && text.includes("ownrow"))) this.siege.sawOwnRow += 1;
  }

  private leak(answer: Answer, said: string, statement: string): Breach | undefined {
    for (const { by, text } of answer.said) {
      const canary = this.scene.leak(text, said);
      if (canary !== undefined) return { what: `${by} shows ${canary}: ${text.slice(0, 500)}`, statement };
    }
    return undefined;
  }

  /** Inside a transaction, a statement that names what is not its own must be answered as if nobody had it. */
  private async twins(ear: Ear, template: string, fill: Filling, twin: Filling): Promise<Breach | undefined> {
    if (ear.status !== "T" || !/@\{their |@\{theirs/.test(template) || !COMPARED.test(template))
      return undefined;
    this.siege.twins += 1;
    const answers: string[] = [];
    // Three times: what is said of a function differs between its first call in a session and the next.
    for (const values of [twin, fill, twin]) {
      await ear.ask("savepoint twin");
      const answer = await ear.ask(filled(template, values));
      if (!ear.isOpen || (await ear.ask("rollback to twin")).code !== "") return undefined;
      answers.push(plain(answer, template, values));
    }
    const [first, theirs, second] = answers as [string, string, string];
    if (theirs === first || theirs === second) return undefined;
    return { what: `told from an id of nobody:\n${theirs}\n${second}`, statement: template };
  }

  private fillings(): [Filling, Filling] {
    const { mine, foreign, ids } = this.scene;
    const ticket = this.database.ticket(mine.tenantId);
    const nobody = randomUUID();
    // Nobody's id differs in its last digits alone, so that it is ordered and parsed as the other tenant's is.
    const absent = like(foreign.tenantId);
    const rows = new Map<string, string>();
    const theirRow = (column: string) => ids.foreign[column]?.[0] ?? nobody;
    const filling =
      (tenantId: string, theirs: (name: string) => string): Filling =>
      (name) => {
        const [whose, column] = name.split(" ") as [string, string | undefined];
        if (whose === "own") return ids.mine[column!]?.[0] ?? nobody;
        if (whose === "their") return theirs(column!);
        const known: Record<string, string> = { mine: mine.tenantId, theirs: tenantId, nobody, ticket };
        return known[name] ?? staleTickets(tenantId, ticket)[name] ?? name;
      };
    const absentRow = (column: string) => {
      if (!rows.has(column))
        rows.set(column, column.endsWith(".tenant_id") ? absent : like(theirRow(column)));
      return rows.get(column)!;
    };
    return [filling(foreign.tenantId, theirRow), filling(absent, absentRow)];
  }

  /** Changes when any row that is not the attacker's does: where each row is, and which transaction wrote it. */
  private async rowsOfOthers(): Promise<string> {
    const parts = this.scene.tables.map(
      (name) => `select tableoid, ctid, xmin from ${name} where tenant_id <> '${this.scene.mine.tenantId}'`,
    );
    const { rows } = await this.database.superuser.query<{ digest: string }>(
      `select count(*) || ' ' || sum(hashtext(t::text)) as digest from (${parts.join(" union all ")}) as t`,
    );
    return rows[0]!.digest;
  }
}

const like = (id: string) => id.slice(0, 24) + randomUUID().slice(24);

/** Statements whose answer is the same each time: no clock, no transaction control, no end of the session. */
const COMPARED = /^\s*(select|with|insert|update|delete|merge|copy|table|explain)\b/i;

/** Statements that mean to begin, end or cut the transaction. */
const CONTROL = /^\s*(begin|commit|rollback|savepoint|release)\b/i;

function filled(template: string, fill: Filling): string {
  return template.replace(/@\{([^}]+)\}/g, (_, name: string) => fill(name));
}

const ANY_UUID = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/gi;
const ANY_MOMENT = /\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2}(\.\d+)?/g;
const ANY_HEX = /[0-9a-f]{24,}/gi;

/** An answer without what is new each time, and without the values that the statement itself named. */
function plain({ code, rows, said }: Answer, template: string, fill: Filling): string {
  // A session may ask for messages that count its transactions and print its plans.
  const spoken = said.filter(({ by, text }) => by !== "notice" || !/"severity":"(DEBUG|LOG)/.test(text));
  let text = spoken.map((each) => `${each.by} ${each.text}`).join("\n");
  for (const [, name] of template.matchAll(/@\{([^}]+)\}/g)) {
    for (const form of [fill(name!), fill(name!).toLowerCase()]) text = text.replaceAll(form, `<${name}>`);
  }
  text = text.replace(ANY_UUID, "<uuid>").replace(ANY_MOMENT, "<moment>").replace(ANY_HEX, "<hex>");
  return `${code} ${rows} ${text.slice(0, 4_000)}`;
}
