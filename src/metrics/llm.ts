// What the calls to a model measure.
import { Counter, Histogram, type Registry } from "prom-client";
import type { ObserveBudgets } from "../db.ts";
import type { Observe } from "../llm.ts";

const BUDGET_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5];
const BATCH_BUCKETS = [1, 2, 5, 10, 20, 50, 100, 200];
/** Why a call gets no hold: the reasons of `budget_exceeded`, and the names of the other refusals. */
const REFUSALS = ["no_budget", "zero", "too_large", "exhausted", "in_flight", "no_price"];
const LLM_BUCKETS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120];

/** Where the calls of one model tell what they measure; its counters stand at 0 from then on. */
export type LlmMetrics = (provider: { name: string; model: string }) => Observe;

/**
 * The names of the tokens and of the duration are OpenTelemetry's for generative AI; cached tokens count as
 * input.
 */
export function llmMetrics(registry: Registry): LlmMetrics {
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

/** What the coalescer of holds and settlements tells. */
export function budgetMetrics(registry: Registry): ObserveBudgets {
  const batches = new Histogram({
    name: "holdfast_budget_batch_size",
    help: "Holds or settlements of one tenant that went together in one statement.",
    buckets: BATCH_BUCKETS,
    registers: [registry],
  });
  const refusals = new Counter({
    name: "holdfast_budget_refusals_total",
    help: "Holds and settlements that were refused: budget_exceeded by its reason, the others by their error.",
    labelNames: ["reason"],
    registers: [registry],
  });
  const busy = new Counter({
    name: "holdfast_budget_busy_total",
    help: "Holds and settlements that found their budget locked for longer than BUDGET_LOCK_TIMEOUT.",
    registers: [registry],
  });
  for (const reason of REFUSALS) refusals.inc({ reason }, 0);
  return {
    batch: (size) => batches.observe(size),
    refused: (reason) => refusals.inc({ reason }),
    busy: (count) => busy.inc(count),
  };
}
