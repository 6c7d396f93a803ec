// The end of a chaos, for people and for programs.
import type { Stage } from "./actions.ts";
import type { Check, Rescue } from "./audit.ts";
import type { Seen } from "./watch.ts";

/** What a chaos has brought to light. */
export type Outcome = {
  seed: number;
  minutes: number;
  json: boolean;
  checks: Check[];
  rescue: Rescue;
  seen: Seen;
  drainMs: number;
  ticking: { ticks: number; runs: number; longestMs: number };
};

/** Prints the audit on stdout: a table, or one JSON document. */
export async function report(stage: Stage, outcome: Outcome): Promise<void> {
  const { json, ...rest } = outcome;
  const facts = await factsOf(stage, outcome);
  if (json) {
    process.stdout.write(`${JSON.stringify({ ...rest, facts, ...stage.tally }, null, 2)}\n`);
    return;
  }
  const table = (rows: [string, unknown][]) => {
    const width = Math.max(0, ...rows.map(([name]) => name.length));
    for (const [name, value] of rows) process.stdout.write(`${name.padEnd(width)}  ${value}\n`);
    process.stdout.write("\n");
  };
  table(Object.entries(facts));
  table(
    Object.entries(stage.tally.deeds).map(([deed, { done, refused }]) => [
      deed,
      `${done}, refused ${refused}`,
    ]),
  );
  table(Object.entries(stage.tally.refusals));
  table(outcome.checks.map(({ check, found }) => [check, found === 0 ? "none" : `FOUND ${found}`]));
  for (const { check, found, proof } of outcome.checks)
    if (found > 0) process.stdout.write(`${check}:\n${JSON.stringify(proof, null, 1)}\n`);
}

async function factsOf({ scene, crew }: Stage, { rescue, seen, drainMs, ticking }: Outcome) {
  const { rows } = await scene.superuser.query<Record<string, number>>(
    `select count(*)::int as runs, count(*) filter (where r.slot is not null)::int as "runs of the scheduler",
       count(*) filter (where r.state = 'COMPLETED')::int as completed,
       count(*) filter (where r.state = 'DEAD_LETTER')::int as "dead letters",
       count(*) filter (where r.error_code = 'poison')::int as poison,
       count(*) filter (where r.error_code = 'job_cancelled')::int as cancelled,
       count(*) filter (where r.replay_count > 0)::int as replayed,
       count(*) filter (where r.crash_count > 0)::int as "with a crash",
       count(*) filter (where r.failure_count > 0)::int as "with a failure",
       (select count(*)::int from app.job_run_events) as events,
       (select count(*)::int from chaos.effects) as effects
     from app.job_runs as r`,
  );
  const ends = (test: (end: (typeof crew.ends)[number]) => boolean) => crew.ends.filter(test).length;
  const steps = Object.fromEntries(
    [...new Set(crew.ends.map(({ step }) => step))].flatMap((step) =>
      step === undefined ? [] : [[`killed ${step}`, ends((end) => end.step === step)]],
    ),
  );
  const codes = Object.fromEntries(
    [...new Set(crew.ends.map(({ code }) => code))].flatMap((code) =>
      code === null ? [] : [[`workers that ended with ${code}`, ends((end) => end.code === code)]],
    ),
  );
  return {
    ...rows[0],
    ...steps,
    ...codes,
    "runs of killed workers": rescue.orphans,
    "longest from kill to given back, s": seconds(rescue.backMs.at(-1)),
    "longest from kill to claimed, without the flooding tenant, s": seconds(rescue.claimedMs.at(-1)),
    "the slowest of them": JSON.stringify(rescue.slowest),
    "longest stop, s": seconds(
      Math.max(0, ...crew.ends.map(({ stopMs, step }) => (step === undefined ? (stopMs ?? 0) : 0))),
    ),
    "drain, s": seconds(drainMs),
    ticks: ticking.ticks,
    "runs made by ticks of 32 schedulers": ticking.runs,
    "longest tick, s": seconds(ticking.longestMs),
    "scheduler lag, s": Math.round(seen.schedulerLagSeconds * 10) / 10,
    "longest dead lease, s": Math.round(seen.deadLeaseSeconds * 10) / 10,
    "longest idle in a transaction, s": Math.round(seen.idleSeconds * 10) / 10,
    "longest a due run had no token, s": Math.round(seen.tokenlessSeconds * 10) / 10,
    "most live runs": seen.liveRuns,
    looks: seen.looks,
  };
}

function seconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : Math.round(ms / 100) / 10;
}
