// A tenant's analysis: SQL finds and computes, a model ranks and words, job_complete applies it.
import type { Llm } from "../src/llm.ts";
import { Candidate, narrate } from "../src/narrative.ts";
import type { Task } from "../src/runs.ts";

/** What the wording leaves of the run's time, in ms: a model that is late costs its words, not the run. */
const SPARE_MS = 5_000;

/** The task of kind `analysis`. Its result is a `Narration`; whatever the model does, there is one. */
export default function analysis(llm: Llm): Task {
  return async ({ tenantId, runId, attempt, signal, deadline, call }) => {
    const candidates = await call(
      `select candidate_id, finding_id, detector, severity, currency, facts, slots, remediation_codes
       from app.analysis_detect($1, $2, run_id => $3, attempt => $4)`,
      [runId, attempt],
      Candidate,
    );
    const deadlineAt = Date.now() + Math.max(0, deadline() - SPARE_MS);
    return narrate(llm, { tenantId, runId, attempt, signal, deadlineAt }, candidates);
  };
}
