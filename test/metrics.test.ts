import { afterEach, describe, expect, test, vi } from "vitest";
import { jobMetrics } from "../src/metrics/database.ts";
import { TRANSITIONS } from "../src/metrics/runs.ts";
import { createMetrics } from "../src/metrics.ts";
import { testDatabase } from "./support/database.ts";

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
    ...["HIGH_VALUE", "ACTIVE", "DORMANT"].flatMap((cohort) => [
      `scheduler_runs_total{cohort="${cohort}"} 0`,
      `scheduler_turns_skipped_total{cohort="${cohort}",reason="overlap"} 0`,
      `scheduler_turns_skipped_total{cohort="${cohort}",reason="duplicate"} 0`,
    ]),
    'holdfast_job_transitions_total{from="",to="PENDING"} 0',
    'holdfast_job_transitions_total{from="DEAD_LETTER",to="PENDING"} 0',
    "scheduler_tick_duration_seconds_count 0",
    'job_runs_finished_total{job_type="analysis",outcome="completed"} 0',
    'job_runs_finished_total{job_type="analysis",outcome="cancelled"} 0',
    'holdfast_job_timeouts_total{layer="thread"} 0',
    'holdfast_job_queue_wait_seconds_count{job_type="analysis"} 0',
    "holdfast_job_claim_seconds_count 0",
    "holdfast_job_commit_seconds_count 0",
    "holdfast_job_fenced_total 0",
    'holdfast_job_reaped_total{outcome="dead_letter"} 0',
    "holdfast_job_handlers_leaked 0",
    'job_execution_duration_seconds_count{job_type="analysis"} 0',
    "llm_budget_check_duration_seconds_count 0",
    'llm_api_calls_total{status="ok"} 0',
    "holdfast_llm_over_hold_total 0",
    "holdfast_budget_batch_size_count 0",
    "holdfast_budget_busy_total 0",
    ...["no_budget", "zero", "too_large", "exhausted", "in_flight", "no_price"].map(
      (reason) => `holdfast_budget_refusals_total{reason="${reason}"} 0`,
    ),
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
  metrics.runs.jobSeconds("analysis", 1, "fenced");
  metrics.runs.jobTimeout("analysis", "grace");
  metrics.runs.jobWait("analysis", 0.2);
  metrics.runs.claimSeconds(0.004);
  metrics.runs.commitSeconds(0.03);
  metrics.runs.reaped("nap", "retry");
  metrics.runs.handlersLeaked(2);
  const none = { runs: 0, shards: 1, overlapped: 0, duplicates: 0 };
  metrics.runs.tick(0.3, [
    { ...none, cohort: "ACTIVE", runs: 3, overlapped: 4 },
    { ...none, cohort: "ACTIVE", runs: 2, overlapped: 1, duplicates: 6 },
  ]);
  metrics.runs.tick(0.1, [
    { ...none, cohort: "ACTIVE", overlapped: 2 },
    { ...none, cohort: "DORMANT" },
  ]);
  metrics.runs.transition("RUNNING", "COMPLETED");
  metrics.runs.transition("RUNNING", "COMPLETED");
  metrics.runs.transition("", "PENDING", 0);
  metrics.runs.transition("", "PENDING", 50);
  metrics.runs.schedulerDeadlock();
  llm.budgetCheckSeconds(0.002);
  llm.call("ok", 1.5, { inputTokens: 900, outputTokens: 80, cachedInputTokens: 100 });
  llm.call("http_429", 0.1, undefined);
  llm.overHold();
  metrics.budgets.batch(7);
  metrics.budgets.batch(200);
  metrics.budgets.refused("in_flight");
  metrics.budgets.refused("idempotency_conflict");
  metrics.budgets.busy(3);
  const lines = (await scrape(metrics)).split("\n");
  for (const line of [
    'api_request_duration_seconds_bucket{le="0.025",route="/v1/findings",method="GET",status="200"} 0',
    'api_request_duration_seconds_bucket{le="0.05",route="/v1/findings",method="GET",status="200"} 1',
    "rls_enforcement_failed_total 1",
    'job_execution_duration_seconds_sum{job_type="analysis"} 4',
    'job_runs_finished_total{job_type="analysis",outcome="completed"} 1',
    'job_runs_finished_total{job_type="analysis",outcome="fenced"} 1',
    "holdfast_job_fenced_total 1",
    "job_timeout_total 1",
    'holdfast_job_timeouts_total{layer="grace"} 1',
    'holdfast_job_queue_wait_seconds_sum{job_type="analysis"} 0.2',
    'holdfast_job_claim_seconds_bucket{le="0.005"} 1',
    'holdfast_job_commit_seconds_bucket{le="0.025"} 0',
    'holdfast_job_reaped_total{outcome="retry"} 1',
    "holdfast_job_handlers_leaked 2",
    "scheduler_tick_duration_seconds_sum 0.4",
    'scheduler_runs_total{cohort="ACTIVE"} 5',
    'scheduler_runs_total{cohort="DORMANT"} 0',
    'scheduler_turns_skipped_total{cohort="ACTIVE",reason="overlap"} 7',
    'scheduler_turns_skipped_total{cohort="ACTIVE",reason="duplicate"} 6',
    'scheduler_turns_skipped_total{cohort="DORMANT",reason="overlap"} 0',
    'holdfast_job_transitions_total{from="RUNNING",to="COMPLETED"} 2',
    'holdfast_job_transitions_total{from="",to="PENDING"} 50',
    'holdfast_job_transitions_total{from="RUNNING",to="FAILED"} 0',
    "scheduler_deadlock_detected_total 1",
    'llm_budget_check_duration_seconds_bucket{le="0.0025"} 1',
    'llm_api_calls_total{status="ok"} 1',
    'llm_api_calls_total{status="http_429"} 1',
    "holdfast_llm_over_hold_total 1",
    'holdfast_budget_batch_size_bucket{le="10"} 1',
    'holdfast_budget_batch_size_bucket{le="200"} 2',
    'holdfast_budget_refusals_total{reason="in_flight"} 1',
    'holdfast_budget_refusals_total{reason="idempotency_conflict"} 1',
    "holdfast_budget_busy_total 3",
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

describe("what the database counts", () => {
  const ONE = [
    {
      name: "holdfast_job_runs",
      labels: { job_type: "analysis", cohort: "ACTIVE", state: "parked" },
      value: 7,
    },
    { name: "holdfast_workers_alive", labels: {}, value: 2 },
    { name: "a_gauge_of_a_newer_database", labels: {}, value: 1 },
  ];
  afterEach(() => {
    vi.useRealTimers();
  });

  test("is in the scrape that asks for it, and is read once in 5 seconds, whoever scrapes", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    const metrics = createMetrics({ version: "1" });
    const read = vi.fn(async () => ONE);
    metrics.watchDatabase(read);
    const [text] = await Promise.all([scrape(metrics), scrape(metrics)]);
    const lines = text.split("\n");
    expect(lines).toContain('holdfast_job_runs{job_type="analysis",cohort="ACTIVE",state="parked"} 7');
    expect(lines).toContain("holdfast_workers_alive 2");
    expect(lines).toContain("holdfast_database_metrics_up 1");
    expect(text).not.toContain("newer_database");
    expect(text).not.toMatch(/^holdfast_queue_tokens /m);
    await scrape(metrics);
    expect(read).toHaveBeenCalledTimes(1);
    vi.advanceTimersByTime(5_001);
    await scrape(metrics);
    expect(read).toHaveBeenCalledTimes(2);
  });

  test("is absent when the database does not answer, and the rest of the scrape is there", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    const metrics = createMetrics({ version: "1" });
    const read = vi.fn(async () => ONE);
    metrics.watchDatabase(read);
    await scrape(metrics);
    read.mockRejectedValue(new Error("the database is away"));
    vi.advanceTimersByTime(5_001);
    const text = await scrape(metrics);
    expect(text).toMatch(/^holdfast_database_metrics_up 0$/m);
    expect(text).not.toMatch(/^holdfast_(job_runs|workers_alive)[ {]/m);
    expect(text).toMatch(/^rls_enforcement_failed_total 0$/m);
  });
});

describe("on a database", () => {
  const database = testDatabase();

  test("every value that it gives is a gauge of the scrape", async () => {
    await database.addTenant();
    const values = await jobMetrics(database.worker);
    const metrics = createMetrics({ version: "1" });
    metrics.watchDatabase(async () => values);
    const lines = (await scrape(metrics)).split("\n");
    expect(values.length).toBeGreaterThan(50);
    for (const { name } of values) {
      expect(
        lines.some((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`)),
        name,
      ).toBe(true);
    }
    expect(lines).toContain("holdfast_database_metrics_up 1");
  });

  test("every change of state that there is stands at 0, and no other", async () => {
    const { rows } = await database.superuser.query<{ from_state: string; to_state: string }>(
      "select from_state, to_state from app.job_run_transitions",
    );
    const known = [...rows.map((row) => [row.from_state, row.to_state]), ["", "PENDING"]];
    expect(TRANSITIONS.map((pair) => [...pair]).sort()).toEqual(known.sort());
    const lines = (await scrape(createMetrics({ version: "1" }))).split("\n");
    const counted = lines.filter((line) => line.startsWith("holdfast_job_transitions_total{"));
    expect(counted.sort()).toEqual(
      known.map(([from, to]) => `holdfast_job_transitions_total{from="${from}",to="${to}"} 0`).sort(),
    );
  });

  test("one that is busy is given up after 2 seconds", async () => {
    const holder = await database.superuser.connect();
    try {
      await holder.query("begin; lock table app.job_workers in access exclusive mode");
      const began = performance.now();
      await expect(jobMetrics(database.worker)).rejects.toThrow();
      expect(performance.now() - began).toBeLessThan(3_500);
    } finally {
      await holder.query("rollback");
      holder.release();
    }
    expect((await jobMetrics(database.worker)).length).toBeGreaterThan(50);
  });
});
