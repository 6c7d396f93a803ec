import { beforeAll, describe, expect, test } from "vitest";
import detection from "../../tasks/detection.ts";
import { testDatabase } from "../support/database.ts";
import { analysesOf, THREE_FINDINGS } from "../support/findings.ts";
import { journal } from "../support/job_scene.ts";
import { executeTask } from "../support/task_run.ts";

const database = testDatabase();
const { costs, findings } = analysesOf(database);
const { log } = journal();
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await costs.load(tenantId, THREE_FINDINGS);
});

test("its result counts what it found, and the findings remember its run", async () => {
  const ended = await executeTask(database, tenantId, detection(), { log });
  expect(ended).toMatchObject({ state: "COMPLETED", result: { findings: 3, open: 3 } });
  expect((await findings(tenantId)).map((each) => each["run_id"])).toEqual(Array(3).fill(ended.runId));
});

test("what people say of a finding is heard the next time", async () => {
  await database.superuser.query(
    "update app.findings set state = 'dismissed' where tenant_id = $1 and rank = 1",
    [tenantId],
  );
  expect(await executeTask(database, tenantId, detection(), { log })).toMatchObject({
    result: { findings: 3, open: 2 },
  });
});

describe("its input", () => {
  test("is what the scheduler says of the turn", async () => {
    const input = { without: ["cost_import"], missed_slots: 3 };
    expect(await executeTask(database, tenantId, detection(), { log, slot: 3_600, input })).toMatchObject({
      state: "COMPLETED",
    });
  });

  test.each([[{ without: "cost_import" }], [{ without: [1] }], [{ missed_slots: -1 }], [{ more: true }]])(
    "is not %j",
    (input) => {
      expect(detection().input.safeParse(input).success).toBe(false);
    },
  );
});
