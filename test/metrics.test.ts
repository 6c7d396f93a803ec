import { expect, test } from "vitest";
import { createMetrics } from "../src/metrics.ts";

const scrape = (metrics: ReturnType<typeof createMetrics>) => metrics.registry.metrics();

test("counters stand at 0 from the start, and every metric says what it is", async () => {
  const metrics = createMetrics({ version: "1.2.3", jobTypes: ["analysis"] });
  metrics.llm({ name: "offline", model: "offline-analyst" });
  const text = await scrape(metrics);
  const labels =
    'gen_ai_provider_name="offline",gen_ai_request_model="offline-analyst",gen_ai_operation_name="chat"';
  for (const line of [
    'holdfast_build_info{version="1.2.3"} 1',
    "rls_enforcement_failed_total 0",
    "job_timeout_total 0",
    "scheduler_deadlock_detected_total 0",
    'job_execution_duration_seconds_count{job_type="analysis"} 0',
    "llm_budget_check_duration_seconds_count 0",
    'llm_api_calls_total{status="ok"} 0',
    "holdfast_llm_over_hold_total 0",
    'llm_api_calls_total{status="timeout"} 0',
    `gen_ai_client_inference_usage_input_tokens_total{${labels}} 0`,
    `gen_ai_client_inference_usage_output_tokens_total{${labels}} 0`,
    `gen_ai_client_operation_duration_seconds_count{${labels}} 0`,
  ]) {
    expect(text.split("\n")).toContain(line);
  }
  expect(text).toMatch(/^process_resident_memory_bytes \d+$/m);
  expect(text).toMatch(/^# TYPE api_request_duration_seconds histogram$/m);
  const types = [...text.matchAll(/^# TYPE (\S+) /gm)].map((match) => match[1]);
  for (const name of types) expect(text, name).toMatch(new RegExp(`^# HELP ${name} \\S`, "m"));
});

test("what a part tells is what a scrape shows", async () => {
  const metrics = createMetrics({ version: "1" });
  const llm = metrics.llm({ name: "openai", model: "large" });
  metrics.apiRequest("/v1/findings", "GET", 200, 0.03);
  metrics.rlsEnforcementFailed();
  metrics.runs.jobSeconds("analysis", 3, "completed");
  metrics.runs.jobTimeout("analysis");
  metrics.runs.schedulerDeadlock();
  llm.budgetCheckSeconds(0.002);
  llm.call("ok", 1.5, { inputTokens: 900, outputTokens: 80, cachedInputTokens: 100 });
  llm.call("http_429", 0.1, undefined);
  llm.overHold();
  const lines = (await scrape(metrics)).split("\n");
  for (const line of [
    'api_request_duration_seconds_bucket{le="0.025",route="/v1/findings",method="GET",status="200"} 0',
    'api_request_duration_seconds_bucket{le="0.05",route="/v1/findings",method="GET",status="200"} 1',
    "rls_enforcement_failed_total 1",
    'job_execution_duration_seconds_sum{job_type="analysis"} 3',
    "job_timeout_total 1",
    "scheduler_deadlock_detected_total 1",
    'llm_budget_check_duration_seconds_bucket{le="0.0025"} 1',
    'llm_api_calls_total{status="ok"} 1',
    'llm_api_calls_total{status="http_429"} 1',
    "holdfast_llm_over_hold_total 1",
  ]) {
    expect(lines).toContain(line);
  }
  const inputTokens = lines.find((line) => /^gen_ai_client_inference_usage_input_tokens_total\{/.test(line));
  expect(inputTokens).toMatch(/gen_ai_request_model="large".* 900$/);
});

test("a pool is counted at the moment of the scrape", async () => {
  const metrics = createMetrics({ version: "1" });
  const pool = { totalCount: 3, idleCount: 1, waitingCount: 4 };
  metrics.watchPool("api", pool);
  const lines = async () => (await scrape(metrics)).split("\n");
  expect(await lines()).toEqual(
    expect.arrayContaining([
      'holdfast_pool_connections{pool="api",state="idle"} 1',
      'holdfast_pool_connections{pool="api",state="busy"} 2',
      'holdfast_pool_waiting{pool="api"} 4',
    ]),
  );
  pool.waitingCount = 0;
  expect(await lines()).toContain('holdfast_pool_waiting{pool="api"} 0');
});

test("two registries know nothing of each other", async () => {
  const [one, other] = [createMetrics({ version: "1" }), createMetrics({ version: "1" })];
  one.rlsEnforcementFailed();
  expect(await scrape(other)).toContain("rls_enforcement_failed_total 0\n");
});
