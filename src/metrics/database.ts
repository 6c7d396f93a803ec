// What the database counts for all tenants, as a scrape shows it.
import { Gauge, type Registry } from "prom-client";
import { z } from "zod";
import { type Db, systemCall } from "../db.ts";

/** A scrape reads no more often than this, whoever scrapes. */
const FRESH_MS = 5_000;
const DEADLINE_MS = 2_000;

const Value = z.object({
  name: z.string(),
  labels: z.record(z.string(), z.string()),
  value: z.number(),
});

/** One value of a gauge; no label names a tenant. */
export type GaugeValue = z.infer<typeof Value>;

/** Gives the values of now; may throw, and then the scrape shows none. */
export type ReadGauges = () => Promise<GaugeValue[]>;

const GAUGES: Record<string, { help: string; labelNames?: string[] }> = {
  holdfast_job_runs: {
    help:
      "Runs that have not ended and dead letters. parked: due, until the tenant has a place; admitted: in the queue; " +
      "later: due later; retrying: due again after a failure. 100000 is that many or more.",
    labelNames: ["job_type", "cohort", "state"],
  },
  holdfast_job_oldest_pending_seconds: {
    help: "How long the run has been due that waits longest.",
    labelNames: ["job_type", "cohort"],
  },
  holdfast_job_oldest_running_seconds: {
    help: "How long the attempt runs that runs longest.",
    labelNames: ["job_type", "cohort"],
  },
  holdfast_job_oldest_running_ratio: {
    help: "The same as a share of its time limit.",
    labelNames: ["job_type", "cohort"],
  },
  holdfast_job_lease_margin_seconds: {
    help: "What is left of the lease that ends next; a worker that beats keeps it above 10.",
    labelNames: ["job_type"],
  },
  holdfast_job_replays: { help: "How often the runs that are kept were replayed.", labelNames: ["job_type"] },
  holdfast_queue_tokens: { help: "Tokens in the queue; 100000 is that many or more." },
  scheduler_lag_seconds: {
    help: "How long the turn has been due that waits longest, 0 when none does.",
    labelNames: ["cohort"],
  },
  holdfast_scheduler_missed_turns: {
    help: "Turns of shards that passed without runs of their own, since ever.",
    labelNames: ["cohort"],
  },
  holdfast_job_fairness_index: {
    help: "Jain's index of the runs that tenants ended in 5 minutes: 1 is even. Absent for fewer than two tenants.",
  },
  holdfast_workers_alive: { help: "Worker processes that have beaten within 20 s." },
  holdfast_table_dead_tuples: {
    help: "Dead rows of the tables of the queue, all months of one together.",
    labelNames: ["table"],
  },
  holdfast_table_vacuum_age_seconds: {
    help: "Since the last autovacuum of the month with most dead rows. Absent before the first.",
    labelNames: ["table"],
  },
  holdfast_oldest_xmin_age: { help: "Transactions since the oldest snapshot that this login can see." },
  holdfast_database_deadlocks: { help: "Deadlocks in this database since its statistics were reset." },
};

/** `app.job_metrics` as the process scrapes it; the login must be one that may call it. Takes 2 s at most. */
export function jobMetrics(db: Pick<Db, "pool">): Promise<GaugeValue[]> {
  return systemCall(db, "select name, labels, value from app.job_metrics()", [], Value, {
    signal: AbortSignal.timeout(DEADLINE_MS),
    timeoutMs: DEADLINE_MS,
  });
}

/**
 * Adds the gauges to a registry. When the database does not answer they have no value, and
 * `holdfast_database_metrics_up` is 0: the rest of the scrape is what it always is.
 */
export function databaseMetrics(registry: Registry, read: ReadGauges): void {
  const gauges = new Map<string, Gauge>();
  const refresh = async (): Promise<boolean> => {
    const values = await read().catch(() => undefined);
    for (const [name, gauge] of gauges) {
      gauge.reset();
      if (GAUGES[name]?.labelNames === undefined) gauge.remove(); // its reset has made it 0
    }
    for (const { name, labels, value } of values ?? []) gauges.get(name)?.set(inOrder(name, labels), value);
    return values !== undefined;
  };
  let last: { at: number; up: Promise<boolean> } | undefined;
  const fresh = () => {
    if (last === undefined || performance.now() - last.at > FRESH_MS) {
      last = { at: performance.now(), up: refresh() };
    }
    return last.up;
  };
  for (const [name, { help, labelNames = [] }] of Object.entries(GAUGES)) {
    const collect = async () => void (await fresh());
    gauges.set(name, new Gauge({ name, help, labelNames, registers: [registry], collect }));
  }
  new Gauge({
    name: "holdfast_database_metrics_up",
    help: "Whether the database has answered what the gauges of runs, queue and scheduler show.",
    registers: [registry],
    async collect() {
      this.set((await fresh()) ? 1 : 0);
    },
  });
}

/** JSON of the database has an order of its own, and would show the labels in it. */
function inOrder(name: string, labels: GaugeValue["labels"]): GaugeValue["labels"] {
  return Object.fromEntries((GAUGES[name]?.labelNames ?? []).map((label) => [label, labels[label] ?? ""]));
}
