// The ways to reserve that are compared, each for some seconds at so many callers.
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { reserveTogether, settleTogether } from "../../../src/budgets/coalesced.ts";
import { reserve } from "../../../src/budgets.ts";
import type { Db } from "../../../src/db.ts";
import { withClient } from "../../../src/migrate.ts";
import { TEST_PASSWORD } from "../../support/constants.ts";
import { ASK, OPEN, type Scene, type Spread } from "./scene.ts";

/** What is measured, and how it is called in the table. */
export const SIDES = {
  textbook: "(a) textbook",
  single: "(b) one call each",
  coalesced: "(c) coalescer",
  batches: "(d) the same batches by pgbench",
  floor: "(e) floor",
  pairs: "reserve and settle, coalescer",
} as const;
export type Side = keyof typeof SIDES;

/** One measurement: reservations per second, and how long a caller waits, in ms. */
export type Round = { perSecond: number; p50: number; p99: number; batch: number };

/** How many calls of a session do not count: its plans are made in them. */
const WARM = 3;

export type Setting = { spread: Spread; callers: number; seconds: number; warmUpMs: number };

/** Measures one side. `batch` is the size of those that pgbench sends: the one that the coalescer reached. */
export async function round(scene: Scene, side: Side, setting: Setting, batch: number): Promise<Round> {
  if (side === "batches" || side === "floor") return byPgbench(scene, side, setting, batch);
  let sent = 0;
  let items = 0;
  const db = scene.connect(setting.callers, (size) => {
    sent += 1;
    items += size;
  });
  const trimming = new AbortController();
  const trimmed = side === "textbook" && setting.spread === "hot" ? trim(scene, trimming.signal) : undefined;
  try {
    const begin = () => {
      sent = 0;
      items = 0;
    };
    const timed = await loops(workOf(side, db), scene.tenants[setting.spread], setting, begin);
    return { ...timed, batch: sent === 0 ? 1 : items / sent };
  } finally {
    trimming.abort();
    await trimmed;
    await db.pool.end();
  }
}

type Work = (tenantId: string) => Promise<unknown>;

function workOf(side: Exclude<Side, "batches" | "floor">, db: Db): Work {
  const ask = () => ({
    idempotencyKey: randomUUID(),
    provider: ASK.provider,
    model: ASK.model,
    inputTokensBound: ASK.input,
    maxOutputTokens: ASK.output,
  });
  const works: Record<typeof side, Work> = {
    textbook: (tenantId) => db.pool.query("select bench.textbook($1, $2)", [tenantId, ASK.nanousd]),
    single: (tenantId) => reserve(db, tenantId, ask()),
    coalesced: (tenantId) => reserveTogether(db, tenantId, ask()),
    pairs: async (tenantId) => {
      const { id } = await reserveTogether(db, tenantId, ask());
      await settleTogether(db, tenantId, id, { inputTokens: 400, outputTokens: 100, cachedInputTokens: 0 });
    },
  };
  return works[side];
}

/** Callers that each ask again when they are answered. It counts from when all are warm: a new session is slow. */
async function loops(
  work: Work,
  tenants: string[],
  { callers, seconds, warmUpMs }: Setting,
  onBegin: () => void,
): Promise<Omit<Round, "batch">> {
  const warmAt = performance.now() + warmUpMs;
  const took: number[] = [];
  let cold = callers;
  let begins = Number.POSITIVE_INFINITY;
  const ends = () => begins + seconds * 1_000;
  const one = async () => {
    for (let calls = 0, began = performance.now(); began < ends(); calls += 1, began = performance.now()) {
      await work(tenants[Math.floor(Math.random() * tenants.length)]!);
      const now = performance.now();
      if (began >= begins && now <= ends()) took.push(now - began);
      if (calls === WARM) cold -= 1;
      if (cold === 0 && now >= warmAt && begins === Number.POSITIVE_INFINITY) {
        begins = now;
        onBegin();
      }
    }
  };
  await Promise.all(Array.from({ length: callers }, one));
  return { perSecond: took.length / seconds, ...waits(took) };
}

function waits(took: number[]): { p50: number; p99: number } {
  const sorted = Float64Array.from(took).sort();
  const at = (share: number) => sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99) };
}

/** Closes what is open beyond the thousand, ten times a second, at nobody's cost: the textbook's budget is not locked. */
async function trim(scene: Scene, signal: AbortSignal): Promise<void> {
  await withClient(scene.scratch.superuser, async (client) => {
    while (!signal.aborted) {
      await client.query(
        `update bench.textbook_reservations set status = 'CLOSED' where id in (
           select id from bench.textbook_reservations where tenant_id = $1 and status = 'OPEN'
           order by id desc offset $2)`,
        [scene.tenants.hot[0], OPEN],
      );
      await sleep(100);
    }
  });
}

/**
 * As many at once as the coalescer has under way: one statement for the hot tenant, and for many tenants one for each
 * caller.
 */
async function byPgbench(
  scene: Scene,
  side: "batches" | "floor",
  { spread, callers, seconds, warmUpMs }: Setting,
  batch: number,
): Promise<Round> {
  const size = Math.max(1, Math.round(batch));
  const clients = spread === "hot" ? 1 : callers;
  const folder = await mkdtemp(join(tmpdir(), "holdfast-pgbench-"));
  try {
    const script = join(folder, "batch.sql");
    const [first, last] = spread === "hot" ? [0, 0] : [1, scene.tenants.many.length];
    await writeFile(script, `${head(first, last)}${side === "batches" ? reserveMany(size) : plain(size)}\n`);
    // So many sessions need so long to be warm, on few cores.
    const time = Math.ceil(seconds + warmUpMs / 1_000 + clients / 40);
    await pgbench(scene, folder, [`--client=${clients}`, `--time=${time}`, `--file=${script}`]);
    const told = await transactionsIn(folder);
    const begins = Math.max(...told.filter(({ nth }) => nth === WARM).map(({ endedAt }) => endedAt));
    const ends = Math.max(...told.map(({ endedAt }) => endedAt));
    const counted = told.filter(({ endedAt, ms }) => endedAt - ms >= begins);
    const perSecond = (counted.length * size) / ((ends - begins) / 1_000);
    return { perSecond, ...waits(counted.map(({ ms }) => ms)), batch: size };
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** The log of pgbench: client, which of its transactions, µs, script, and when it ended, in s and µs. */
async function transactionsIn(folder: string): Promise<{ nth: number; ms: number; endedAt: number }[]> {
  const names = (await readdir(folder)).filter((each) => each.startsWith("log"));
  const texts = await Promise.all(names.map((name) => readFile(join(folder, name), "utf8")));
  return texts
    .join("")
    .trimEnd()
    .split("\n")
    .map((line) => {
      const [, nth, micros, , seconds, rest] = line.split(" ").map(Number);
      return { nth: nth!, ms: micros! / 1_000, endedAt: seconds! * 1_000 + rest! / 1_000 };
    });
}

async function pgbench(scene: Scene, folder: string, args: string[]): Promise<void> {
  const { host, port } = scene.server;
  const child = spawn(
    "pgbench",
    [
      "--no-vacuum",
      "--protocol=simple",
      "--jobs=1",
      "--log",
      `--log-prefix=${join(folder, "log")}`,
      ...args,
      `--host=${host}`,
      `--port=${port}`,
      "--username=holdfast_service",
      scene.scratch.database,
    ],
    { env: { ...process.env, PGPASSWORD: TEST_PASSWORD }, stdio: ["ignore", "ignore", "pipe"] },
  );
  let said = "";
  child.stderr.on("data", (data: Buffer) => {
    said += data.toString();
  });
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  if (code !== 0 || /ERROR/.test(said)) throw new Error(`pgbench: ${said.slice(0, 1_000)}`);
}

function head(first: number, last: number): string {
  return `\\set r random(1, 9000000000000000000)\n\\set n random(${first}, ${last})\n`;
}

/** The text that the shell sends; after each colon a space, or pgbench would look for a variable. */
function reserveMany(size: number): string {
  const { provider, model, input, output } = ASK;
  const asks = places(size).map(
    (at) =>
      `{"provider": "${provider}", "model": "${model}", "input_tokens_bound": ${input}, ` +
      `"max_output_tokens": ${output}, "idempotency_key": "0000000000000000-:r-${at}"}`,
  );
  return `select n, id, status, estimated_cost_nanousd, max_output_tokens, expires_at, replayed, refusal, detail, hint from app.llm_reserve_many((select tenant_id from bench.tenants where n = :n), (select ticket from bench.tenants where n = :n), '[${asks.join()}]');`;
}

/** The same rows, keys given, nothing looked up or compared. */
function plain(size: number): string {
  const { provider, model, input, output, nanousd } = ASK;
  const keys = places(size).map((at) => `('0000000000000000-:r-${at}')`);
  return `with asked as materialized (select bench.id() as id, t.tenant_id, k.key from (values ${keys.join()}) as k (key), bench.tenants as t where t.n = :n), keys as (insert into bench.llm_reservation_keys (tenant_id, idempotency_key, fingerprint, reservation_id) select tenant_id, key, 'd41d8cd98f00b204e9800998ecf8427e', id from asked), budgets as (insert into bench.llm_reservation_budgets (tenant_id, reservation_id, budget_id, period_start) select tenant_id, id, tenant_id, '-infinity' from asked), counted as (update bench.llm_budget_periods as p set reserved_nanousd = p.reserved_nanousd + ${size * nanousd} from bench.tenants as t where t.n = :n and p.tenant_id = t.tenant_id) insert into bench.llm_reservations (tenant_id, id, provider, model, service_tier, attempt, input_tokens_bound, max_output_tokens, images, tool_calls, tags, estimated_cost_nanousd, price_ids, created_at, expires_at) select tenant_id, id, '${provider}', '${model}', 'standard', 1, ${input}, ${output}, 0, 0, '{}', ${nanousd}, array[tenant_id], now(), now() + interval '2 minutes' from asked returning id, status, estimated_cost_nanousd, max_output_tokens, expires_at;`;
}

function places(size: number): number[] {
  return Array.from({ length: size }, (_, at) => at + 1);
}
