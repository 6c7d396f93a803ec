// A tenant's detection: SQL runs the detectors over its costs and keeps what they find.
import { z } from "zod";
import { FollowingInput } from "../src/slot_input.ts";
import { type TaskEntry, task } from "../src/tasks.ts";

const Counts = z.object({ findings: z.int(), open: z.int() });

/** The task of kind `detection`. Its result counts the findings that were seen, and all that stand. */
export default function detection(): TaskEntry {
  return task({
    kind: "detection",
    input: FollowingInput,
    async run({ runId, attempt, call }) {
      const text = "select findings, open from app.findings_detect($1, $2, run_id => $3, attempt => $4)";
      const [counts] = await call(text, [runId, attempt], Counts);
      return counts;
    },
  });
}
