// What a worker's runs and ticks measure.
import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import type { CohortTick } from "../jobs.ts";
import type { Observe, RunOutcome } from "../runs.ts";

const JOB_BUCKETS = [0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900];
const WAIT_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200];
const STATEMENT_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 15];
const TICK_BUCKETS = [0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60];

const OUTCOMES: RunOutcome[] = ["completed", "stopped", "failed", "dead_letter", "fenced", "cancelled"];
const LAYERS = ["abort", "grace", "thread", "statement"] as const;
const COHORTS = ["HIGH_VALUE", "ACTIVE", "DORMANT"];

/** The changes of state that there are, by from and to: those of app.job_run_transitions, and that of a run that is new. */
export const TRANSITIONS = [
  ["", "PENDING"],
  ["PENDING", "RUNNING"],
  ["PENDING", "DEAD_LETTER"],
  ["RUNNING", "COMPLETED"],
  ["RUNNING", "FAILED"],
  ["RUNNING", "DEAD_LETTER"],
  ["RUNNING", "PENDING"],
  ["FAILED", "RUNNING"],
  ["FAILED", "DEAD_LETTER"],
  ["DEAD_LETTER", "PENDING"],
] as const;

/** Where the worker and the scheduler tell what they measure; the counters of `jobTypes` stand at 0 from here on. */
export function runMetrics(registry: Registry, jobTypes: readonly string[]): Observe {
  return {
    ...endMetrics(registry, jobTypes),
    ...startMetrics(registry, jobTypes),
    ...tickMetrics(registry),
    ...transitionMetrics(registry),
  };
}

function endMetrics(
  registry: Registry,
  jobTypes: readonly string[],
): Pick<Observe, "jobSeconds" | "jobTimeout" | "commitSeconds" | "reaped" | "handlersLeaked"> {
  const registers = [registry];
  const durations = new Histogram({
    name: "job_execution_duration_seconds",
    help: "Time from the claim of a run to the end of that attempt, however it ended.",
    labelNames: ["job_type"],
    buckets: JOB_BUCKETS,
    registers,
  });
  const ends = new Counter({
    name: "job_runs_finished_total",
    help: "Attempts by how they ended: completed, failed (tried again), dead_letter, cancelled, stopped, fenced.",
    labelNames: ["job_type", "outcome"],
    registers,
  });
  const fenced = new Counter({
    name: "holdfast_job_fenced_total",
    help: "Attempts whose run had gone on without them, so that nothing of them counts.",
    registers,
  });
  const timeouts = new Counter({
    name: "job_timeout_total",
    help: "Attempts that were ended because their time was up.",
    registers,
  });
  const layers = new Counter({
    name: "holdfast_job_timeouts_total",
    help: "The same by what ended them: the signal, the grace after it, the end of a thread, or the database.",
    labelNames: ["layer"],
    registers,
  });
  const commits = new Histogram({
    name: "holdfast_job_commit_seconds",
    help: "Time to write the end of an attempt, its work with it.",
    buckets: STATEMENT_BUCKETS,
    registers,
  });
  const reaps = new Counter({
    name: "holdfast_job_reaped_total",
    help: "Runs whose worker was lost, by what became of them.",
    labelNames: ["outcome"],
    registers,
  });
  const leaked = new Gauge({
    name: "holdfast_job_handlers_leaked",
    help: "Handlers that went on after their time and the grace after it, and have not ended.",
    registers,
  });
  for (const kind of jobTypes) {
    durations.zero({ job_type: kind });
    for (const outcome of OUTCOMES) ends.inc({ job_type: kind, outcome }, 0);
  }
  for (const layer of LAYERS) layers.inc({ layer }, 0);
  for (const outcome of ["retry", "dead_letter"]) reaps.inc({ outcome }, 0);
  return {
    jobSeconds: (kind, seconds, outcome) => {
      durations.observe({ job_type: kind }, seconds);
      ends.inc({ job_type: kind, outcome });
      if (outcome === "fenced") fenced.inc();
    },
    jobTimeout: (_kind, layer) => {
      timeouts.inc();
      layers.inc({ layer });
    },
    commitSeconds: (seconds) => commits.observe(seconds),
    reaped: (kind, outcome) => {
      reaps.inc({ outcome });
      ends.inc({ job_type: kind, outcome: outcome === "retry" ? "failed" : outcome });
    },
    handlersLeaked: (count) => leaked.set(count),
  };
}

function startMetrics(
  registry: Registry,
  jobTypes: readonly string[],
): Pick<Observe, "jobWait" | "claimSeconds"> {
  const waits = new Histogram({
    name: "holdfast_job_queue_wait_seconds",
    help: "Time from when a run was due to its claim.",
    labelNames: ["job_type"],
    buckets: WAIT_BUCKETS,
    registers: [registry],
  });
  const claims = new Histogram({
    name: "holdfast_job_claim_seconds",
    help: "Time to claim a batch of runs.",
    buckets: STATEMENT_BUCKETS,
    registers: [registry],
  });
  for (const kind of jobTypes) waits.zero({ job_type: kind });
  return {
    jobWait: (kind, seconds) => waits.observe({ job_type: kind }, seconds),
    claimSeconds: (seconds) => claims.observe(seconds),
  };
}

function tickMetrics(registry: Registry): Pick<Observe, "tick" | "schedulerDeadlock"> {
  const ticks = new Histogram({
    name: "scheduler_tick_duration_seconds",
    help: "Time of a tick of the scheduler, all of its transactions together.",
    buckets: TICK_BUCKETS,
    registers: [registry],
  });
  const runs = new Counter({
    name: "scheduler_runs_total",
    help: "Runs that this process's ticks have made, by cohort.",
    labelNames: ["cohort"],
    registers: [registry],
  });
  const skipped = new Counter({
    name: "scheduler_turns_skipped_total",
    help:
      "Turns of tenants that this process's ticks made no run for. overlap: those before had not ended; duplicate: the " +
      "tenant had the turn already.",
    labelNames: ["cohort", "reason"],
    registers: [registry],
  });
  const add = (cohort: string, made: Pick<CohortTick, "runs" | "overlapped" | "duplicates">) => {
    runs.inc({ cohort }, made.runs);
    skipped.inc({ cohort, reason: "overlap" }, made.overlapped);
    skipped.inc({ cohort, reason: "duplicate" }, made.duplicates);
  };
  for (const cohort of COHORTS) add(cohort, { runs: 0, overlapped: 0, duplicates: 0 });
  const deadlocks = new Counter({
    name: "scheduler_deadlock_detected_total",
    help: "Ticks of the scheduler that the database ended as a deadlock; each is tried again.",
    registers: [registry],
  });
  return {
    tick: (seconds, made) => {
      ticks.observe(seconds);
      for (const each of made) add(each.cohort, each);
    },
    schedulerDeadlock: () => deadlocks.inc(),
  };
}

function transitionMetrics(registry: Registry): Pick<Observe, "transition"> {
  const transitions = new Counter({
    name: "holdfast_job_transitions_total",
    help:
      "Changes of the state of runs by from (empty: the run is new) and to: those that this process made and was told " +
      "of; app.job_run_events has all of them.",
    labelNames: ["from", "to"],
    registers: [registry],
  });
  for (const [from, to] of TRANSITIONS) transitions.inc({ from, to }, 0);
  return { transition: (from, to, count = 1) => transitions.inc({ from, to }, count) };
}
