// What a process measures, in a registry of its own. Names and labels are a contract with rules and
// dashboards.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { ObserveBudgets } from "./db.ts";
import { databaseMetrics, type ReadGauges } from "./metrics/database.ts";
import { budgetMetrics, type LlmMetrics, llmMetrics } from "./metrics/llm.ts";
import { runMetrics } from "./metrics/runs.ts";
import type { Observe as ObserveRuns } from "./runs.ts";

/** The registry to scrape, and where the parts tell what they measure. Durations are in seconds. */
export type Metrics = {
  registry: Registry;
  apiRequest(route: string, method: string, status: number, seconds: number): void;
  rlsEnforcementFailed(): void;
  runs: ObserveRuns;
  llm: LlmMetrics;
  budgets: ObserveBudgets;
  /** Shows what the database counts for all tenants; `read` is called at most every 5 s, by a scrape. */
  watchDatabase(read: ReadGauges): void;
  /** Shows a pool's connections and waiters at every scrape. */
  watchPool(name: string, pool: CountedPool): void;
};

/** What a `pg.Pool` tells of itself. */
export type CountedPool = { totalCount: number; idleCount: number; waitingCount: number };

const HTTP_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/**
 * The metrics of a process, counters at 0; `jobTypes` are the kinds of run whose durations start there too.
 */
export function createMetrics(build: { version: string; jobTypes?: readonly string[] }): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  new Gauge({
    name: "holdfast_build_info",
    help: "Always 1; the label tells which version runs.",
    labelNames: ["version"],
    registers: [registry],
  }).set({ version: build.version }, 1);
  return {
    registry,
    ...edgeMetrics(registry),
    runs: runMetrics(registry, build.jobTypes ?? []),
    llm: llmMetrics(registry),
    budgets: budgetMetrics(registry),
    watchDatabase: (read) => databaseMetrics(registry, read),
    watchPool: poolMetrics(registry),
  };
}

function edgeMetrics(registry: Registry): Pick<Metrics, "apiRequest" | "rlsEnforcementFailed"> {
  const requests = new Histogram({
    name: "api_request_duration_seconds",
    help: "Time from a request's first line to the end of its answer.",
    labelNames: ["route", "method", "status"],
    buckets: HTTP_BUCKETS,
    registers: [registry],
  });
  const refusals = new Counter({
    name: "rls_enforcement_failed_total",
    help: "Calls that the database refused because their tenant could not be entered.",
    registers: [registry],
  });
  return {
    apiRequest: (route, method, status, seconds) => requests.observe({ route, method, status }, seconds),
    rlsEnforcementFailed: () => refusals.inc(),
  };
}

function poolMetrics(registry: Registry): Metrics["watchPool"] {
  const pools = new Map<string, CountedPool>();
  new Gauge({
    name: "holdfast_pool_connections",
    help: "Connections to the database that are open, by pool and by whether one is in use.",
    labelNames: ["pool", "state"],
    registers: [registry],
    collect() {
      for (const [name, pool] of pools) {
        this.set({ pool: name, state: "idle" }, pool.idleCount);
        this.set({ pool: name, state: "busy" }, pool.totalCount - pool.idleCount);
      }
    },
  });
  new Gauge({
    name: "holdfast_pool_waiting",
    help: "Callers that wait for a connection to the database, by pool.",
    labelNames: ["pool"],
    registers: [registry],
    collect() {
      for (const [name, pool] of pools) this.set({ pool: name }, pool.waitingCount);
    },
  });
  return (name, pool) => void pools.set(name, pool);
}
