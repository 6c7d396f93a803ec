// The fuzz: statements of sqlsmith, seasoned, run as the tenant role on a scene. The tests run thousands, the soak many
// more; a seed says which.
import { randomFrom } from "../../src/sample/random.ts";
import { type AttackDatabase, type Finding, newTally, openProbe, type Tally } from "./probe.ts";
import type { AttackScene } from "./scene.ts";
import { closedFunctions, seasoning } from "./season.ts";
import { type Smithy, smithed } from "./sqlsmith.ts";

/** Statements of one transaction: a statement meets what those before it have left. */
const PER_SESSION = 10;
/** Of so many transactions one goes back to the login, as an injected RESET ROLE would. */
const LOGIN_EVERY = 16;

/** Where to fuzz, and what. */
export type Fuzz = {
  database: AttackDatabase;
  scene: AttackScene;
  server: { host: string; port: number };
  seed: number;
  statements: number;
  /** Of the statements, the part that also asks the system catalog; the others ask tables of ours alone. */
  catalogShare: number;
  timeoutMs?: number;
  signal?: AbortSignal;
  onProgress?: (done: number) => void;
};

/** What came of it. `changed` names the tables in which a row of another tenant is no longer what it was. */
export type Fuzzed = { tally: Tally; findings: Finding[]; changed: string[] };

/** Runs the data part and the catalog part at once, each on a connection of its own. Ends at the first finding. */
export async function fuzz(of: Fuzz): Promise<Fuzzed> {
  const { database, scene, server, seed, statements, catalogShare } = of;
  const before = await scene.foreignFingerprints();
  const tally = newTally();
  const season = seasoning(scene, await closedFunctions(database.superuser));
  const withCatalog = Math.round(statements * catalogShare);
  const stop = new AbortController();
  const stopped = () => stop.signal.aborted || of.signal?.aborted === true;

  async function part(smithy: Pick<Smithy, "catalog" | "seed" | "count">): Promise<Finding[]> {
    if (smithy.count === 0) return [];
    const probe = openProbe(database, scene, { timeoutMs: of.timeoutMs ?? 200, tally });
    const random = randomFrom(smithy.seed);
    let sessions = 0;
    let waiting: string[] = [];
    const flush = async () => {
      sessions += 1;
      await probe.session(waiting, sessions % LOGIN_EVERY === 0 ? "login" : "tenant");
      waiting = [];
      of.onProgress?.(tally.statements);
    };
    try {
      for await (const statement of smithed({ ...server, database: database.name, ...smithy })) {
        waiting.push(season(statement, random));
        if (waiting.length === PER_SESSION) await flush();
        if (stopped() || probe.findings.length > 0) break;
      }
      if (waiting.length > 0) await flush();
      if (probe.findings.length > 0) stop.abort();
    } finally {
      await probe.end();
    }
    return probe.findings;
  }

  const found = await Promise.all([
    part({ catalog: false, seed, count: statements - withCatalog }),
    part({ catalog: true, seed, count: withCatalog }),
  ]);
  const after = await scene.foreignFingerprints();
  const changed = Object.keys({ ...before, ...after }).filter((name) => before[name] !== after[name]);
  return { tally, findings: found.flat(), changed };
}

/** One line for a person: how much of the fuzz did something. */
export function summary({ tally, findings, changed }: Fuzzed): string {
  const codes = Object.entries(tally.codes)
    .sort(([, a], [, b]) => b - a)
    .map(([code, count]) => `${code} ${count}`);
  return (
    `${tally.statements} statements: ${tally.succeeded} succeeded, ${tally.withRows} gave ${tally.rows} rows, ` +
    `${tally.sawOwnRow} saw a row of their own; of ours ${tally.ours.statements}, ${tally.ours.succeeded} succeeded, ` +
    `${tally.ours.withRows} gave rows; hung ${tally.hung}; findings ${findings.length}, changed ${changed.length}; ` +
    `errors ${codes.join(", ")}`
  );
}
