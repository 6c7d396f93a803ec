// A tenant's analysis: SQL has found and computed, a model ranks and words, job_complete applies it.
import type { Llm } from "../src/llm.ts";
import { Candidate, narrate } from "../src/narrative.ts";
import { FollowingInput } from "../src/slot_input.ts";
import { type TaskEntry, task } from "../src/tasks.ts";

/** What the wording leaves of the run's time, in ms: a model that is late costs its words, not the run. */
const SPARE_MS = 5_000;

/** The task of kind `analysis`. Its result is a `Narration`; whatever the model does, there is one. */
export default function analysis(llm: Llm): TaskEntry {
  return task({
    kind: "analysis",
    input: FollowingInput,
    async run({ tenantId, runId, attempt, signal, deadline, call }) {
      const candidates = await call(
        `select candidate_id, finding_id, mark, detector, severity, currency, facts, slots, remediation_codes
         from app.analysis_candidates($1, $2, run_id => $3, attempt => $4)`,
        [runId, attempt],
        Candidate,
      );
      const deadlineAt = Date.now() + Math.max(0, deadline() - SPARE_MS);
      return narrate(llm, { tenantId, runId, attempt, signal, deadlineAt }, candidates);
    },
  });
}
