// What a process measures, in a registry of its own. Names and labels are a contract with rules and
// dashboards.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Observe as ObserveLlm } from "./llm.ts";
import type { Observe as ObserveRuns } from "./runs.ts";

/** The registry to scrape, and where the parts tell what they measure. Durations are in seconds. */
export type Metrics = {
  registry: Registry;
  apiRequest(route: string, method: string, status: number, seconds: number): void;
  rlsEnforcementFailed(): void;
  runs: ObserveRuns;
  /** For the calls of one model; its counters stand at 0 from here on. */
  llm(provider: { name: string; model: string }): ObserveLlm;
  /** Shows a pool's connections and waiters at every scrape. */
  watchPool(name: string, pool: CountedPool): void;
};

/** What a `pg.Pool` tells of itself. */
export type CountedPool = { totalCount: number; idleCount: number; waitingCount: number };

const HTTP_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const BUDGET_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5];
const JOB_BUCKETS = [0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900];
const LLM_BUCKETS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120];

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

function runMetrics(registry: Registry, jobTypes: readonly string[]): ObserveRuns {
  const durations = new Histogram({
    name: "job_execution_duration_seconds",
    help: "Time from the claim of a run to the end of that attempt, however it ended.",
    labelNames: ["job_type"],
    buckets: JOB_BUCKETS,
    registers: [registry],
  });
  const timeouts = new Counter({
    name: "job_timeout_total",
    help: "Attempts that were ended because their time was up.",
    registers: [registry],
  });
  const deadlocks = new Counter({
    name: "scheduler_deadlock_detected_total",
    help: "Ticks of the scheduler that the database ended as a deadlock; each is tried again.",
    registers: [registry],
  });
  for (const kind of jobTypes) durations.zero({ job_type: kind });
  return {
    jobSeconds: (kind, seconds) => durations.observe({ job_type: kind }, seconds),
    jobTimeout: () => timeouts.inc(),
    schedulerDeadlock: () => deadlocks.inc(),
  };
}

/**
 * The names of the tokens and of the duration are OpenTelemetry's for generative AI; cached tokens count as
 * input.
 */
function llmMetrics(registry: Registry): Metrics["llm"] {
  const model = ["gen_ai_provider_name", "gen_ai_request_model", "gen_ai_operation_name"] as const;
  const checks = new Histogram({
    name: "llm_budget_check_duration_seconds",
    help: "Time to hold a call's upper bound in its budgets, or to be refused.",
    buckets: BUDGET_BUCKETS,
    registers: [registry],
  });
  const calls = new Counter({
    name: "llm_api_calls_total",
    help: "Calls to the model by how they ended: ok, timeout, unreachable, http_429 and so on.",
    labelNames: ["status"],
    registers: [registry],
  });
  const durations = new Histogram({
    name: "gen_ai_client_operation_duration_seconds",
    help: "Time from sending a call to the model until its answer was read or given up.",
    labelNames: model,
    buckets: LLM_BUCKETS,
    registers: [registry],
  });
  const inputTokens = new Counter({
    name: "gen_ai_client_inference_usage_input_tokens_total",
    help: "Input tokens that the provider billed, cached ones included.",
    labelNames: model,
    registers: [registry],
  });
  const outputTokens = new Counter({
    name: "gen_ai_client_inference_usage_output_tokens_total",
    help: "Output tokens that the provider billed.",
    labelNames: model,
    registers: [registry],
  });
  const overHolds = new Counter({
    name: "holdfast_llm_over_hold_total",
    help: "Calls to the model that have cost more than was held for them; each is one too many.",
    registers: [registry],
  });
  for (const status of ["ok", "timeout", "unreachable", "cut"]) calls.inc({ status }, 0);

  return (provider) => {
    const labels = {
      gen_ai_provider_name: provider.name,
      gen_ai_request_model: provider.model,
      gen_ai_operation_name: "chat",
    };
    durations.zero(labels);
    inputTokens.inc(labels, 0);
    outputTokens.inc(labels, 0);
    return {
      budgetCheckSeconds: (seconds) => checks.observe(seconds),
      call: (status, seconds, usage) => {
        calls.inc({ status });
        durations.observe(labels, seconds);
        inputTokens.inc(labels, usage?.inputTokens ?? 0);
        outputTokens.inc(labels, usage?.outputTokens ?? 0);
      },
      overHold: () => overHolds.inc(),
    };
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
