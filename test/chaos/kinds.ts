// The kinds of run that chaos has, and what they do: most of them work, some do what no task should.
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { type Run, type Tasks, task } from "../../src/tasks.ts";
import { reached } from "./steps.ts";

/** What a task is told to do. */
export const BEHAVIOURS = [
  "works",
  "is_flaky",
  "throws",
  "sleeps",
  "traps",
  "holds",
  "leaks",
  "commits",
  "leaves_a_promise",
  "crashes",
  "spins",
] as const;
export type Behaviour = (typeof BEHAVIOURS)[number];

/** Milliseconds that work takes; for `is_flaky`, how many attempts fail first; `hold` is how long after its effect it stays. */
export const Input = z.looseObject({
  behave: z.enum(BEHAVIOURS).default("works"),
  ms: z.number().default(5),
  hold: z.number().default(0),
  failures: z.number().default(1),
});
type Input = z.infer<typeof Input>;

/** A row of app.job_kinds, and where its runs come from. */
export type ChaosKind = {
  kind: string;
  timeoutSeconds: number;
  maxRetries: number;
  maxRunning?: number;
  ratePerMinute?: number;
  rateBurst?: number;
  slotOrder?: number;
};

/** Short times, so that all that can happen to a run happens often. */
export const KINDS: readonly ChaosKind[] = [
  { kind: "chaos_quick", timeoutSeconds: 15, maxRetries: 8 },
  { kind: "chaos_capped", timeoutSeconds: 15, maxRetries: 8, maxRunning: 2 },
  { kind: "chaos_rated", timeoutSeconds: 15, maxRetries: 8, ratePerMinute: 600, rateBurst: 5 },
  { kind: "chaos_harsh", timeoutSeconds: 2, maxRetries: 1, maxRunning: 4 },
  { kind: "chaos_thread", timeoutSeconds: 2, maxRetries: 1, maxRunning: 2 },
  { kind: "chaos_first", timeoutSeconds: 10, maxRetries: 2, maxRunning: 1, slotOrder: 10 },
  { kind: "chaos_second", timeoutSeconds: 10, maxRetries: 2, maxRunning: 1, slotOrder: 20 },
  { kind: "chaos_third", timeoutSeconds: 10, maxRetries: 2, maxRunning: 1, slotOrder: 30 },
];

/** What a worker of chaos serves. */
export function chaosTasks(): Tasks {
  return KINDS.map(({ kind, slotOrder }) => {
    if (kind === "chaos_thread")
      return task({ kind, input: Input, thread: new URL("spin.ts", import.meta.url) });
    return task({ kind, input: Input, run: slotOrder === undefined ? act : takeTurn });
  });
}

/** A turn of the scheduler has no input of ours: some of them fail, by their id. */
async function takeTurn(run: Run<Input>): Promise<unknown> {
  const lot = Number.parseInt(run.runId.slice(-2), 16);
  if (lot < 5 || (lot < 20 && run.attempt === 1)) throw new Error("a turn that fails");
  return act(run);
}

async function act(run: Run<Input>): Promise<unknown> {
  reached("working");
  const { behave, ms, hold, failures } = run.input;
  await sleep(ms, undefined, { signal: run.signal });
  if (behave === "is_flaky" && run.attempt <= failures) throw new Error("not yet");
  if (behave === "crashes") process.kill(process.pid, "SIGKILL");

  await effect(run, behave === "commits");
  reached("in_transaction");
  if (hold > 0) await sleep(hold, undefined, { signal: run.signal });
  await misbehave(run, behave);
  return { pid: process.pid };
}

/** What must be there exactly once when the run is completed, and not at all when it is not. */
async function effect(run: Run<Input>, isCommittedByTask: boolean): Promise<void> {
  await run.client.query(
    "insert into chaos.effects (tenant_id, run_id, attempt, committed_by_task) values ($1, $2, $3, $4)",
    [run.tenantId, run.runId, run.attempt, isCommittedByTask],
  );
}

async function misbehave(run: Run<Input>, behave: Behaviour): Promise<void> {
  switch (behave) {
    case "throws":
      throw new Error("it throws");
    case "sleeps":
      await sleep(60_000, undefined, { ref: false });
      break;
    case "traps":
      await run.client.query("select chaos.trap(60)");
      break;
    case "holds":
      await new Promise(() => {});
      break;
    case "leaks":
      await leak(run);
      break;
    case "commits":
      await run.client.query("commit");
      break;
    case "leaves_a_promise":
      void sleep(100).then(() => effect(run, false).catch(() => {}));
      break;
    default:
  }
}

/** Whatever a session can keep. The next run on the connection looks whether it has. */
async function leak(run: Run<Input>): Promise<void> {
  const { rows } = await run.client.query(
    `select coalesce(current_setting('chaos.leak', true), '') as setting,
       (select count(*)::int from pg_catalog.pg_cursors where name = 'chaos_leak') as cursors`,
  );
  if (rows[0]?.["setting"] !== "" || rows[0]["cursors"] !== 0) throw new Error("LEAK_SEEN");
  await run.client.query("declare chaos_leak cursor with hold for select generate_series(1, 1000)");
  await run.client.query("select pg_catalog.set_config('chaos.leak', 'seen', false)");
}
