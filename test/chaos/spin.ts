// A task that keeps the processor busy, in a thread of its own: no signal reaches it.
import type { Run } from "../../src/tasks.ts";

export default async function spin(run: Run<{ behave: string; ms: number }>): Promise<unknown> {
  const until = run.input.behave === "spins" ? Number.POSITIVE_INFINITY : performance.now() + run.input.ms;
  while (performance.now() < until);
  await run.client.query(
    "insert into chaos.effects (tenant_id, run_id, attempt, committed_by_task) values ($1, $2, $3, false)",
    [run.tenantId, run.runId, run.attempt],
  );
  return {};
}
