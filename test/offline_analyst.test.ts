import { describe, expect, test } from "vitest";
import { OFFLINE_NOTICE, offlineAnalyst } from "../src/offline_analyst.ts";

const ANOMALY =
  "baseline,cost,days,excess,excess_per_day,first_day,monthly_saving,region,service,sub_account";
const TABLE = [
  "candidate_id\tdetector\tseverity\tcurrency\tfacts\tslots\tremediation_codes",
  "c1\tuntagged_spend\tlow\tUSD\ttag=team\tservice,tag,total,untagged,untagged_share,window\ttag_resources,no_action",
  `c2\tcost_anomaly\tlow\tUSD\tservice=AWS Lambda\t${ANOMALY}\texplain_spike,no_action`,
  `c3\tcost_anomaly\thigh\tUSD\tservice=Amazon EC2\t${ANOMALY}\tinvestigate_running_increase,no_action`,
  "c4\tuntagged_spend\tlow\tUSD\tservice=Amazon RDS\tservice\ttag_resources",
  "c5\tnew_rule_7\tweird\tEUR\tx\t\tlook",
].join("\n");

const JSON_SCHEMA = { type: "json_schema", json_schema: { name: "narration", schema: {} } };

type Completion = {
  model: string;
  system_fingerprint: string;
  choices: { message: { content: string }; finish_reason: string }[];
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
};

async function complete(body: object): Promise<Completion> {
  const response = await post(body);
  expect(response.status).toBe(200);
  return (await response.json()) as Completion;
}

function post(body: object, url = "http://offline.invalid/v1/chat/completions"): Promise<Response> {
  return offlineAnalyst(url, { method: "POST", body: JSON.stringify(body) });
}

function asking(extra: object = {}, table = TABLE): object {
  const messages = [
    { role: "system", content: "Rank and word." },
    { role: "user", content: table },
  ];
  return { model: "offline-analyst", messages, max_tokens: 2_000, ...extra };
}

function contentOf(completion: Completion): string {
  return completion.choices[0]?.message.content ?? "";
}

describe("offlineAnalyst", () => {
  test("words every candidate: dear ones first, a detector's side by side, codes of their own line", async () => {
    const completion = await complete(asking({ response_format: JSON_SCHEMA }));
    const { items, summary } = JSON.parse(contentOf(completion));
    const ids = items.map((item: { candidate_id: string }) => item.candidate_id);
    expect(ids).toEqual(["c3", "c1", "c4", "c2", "c5"]);
    expect(items[0].remediation_code).toBe("investigate_running_increase");
    expect(summary).toContain(OFFLINE_NOTICE);
    expect(completion.model).toBe("offline-analyst");
    expect(completion.system_fingerprint).toBe("offline-analyst");
  });

  test("uses only slots of the line, and writes no digit", async () => {
    const { items } = JSON.parse(contentOf(await complete(asking({ response_format: JSON_SCHEMA }))));
    const headline = (id: string) =>
      items.find((item: { candidate_id: string }) => item.candidate_id === id).headline as string;
    expect(headline("c1")).toContain("{{untagged}}");
    expect(headline("c3")).toContain("{{excess_per_day}}");
    expect(headline("c4")).not.toContain("{{");
    expect(headline("c5")).toBe("Worth a look: new rule");
    expect(
      JSON.stringify(items.map(({ candidate_id: _, ...words }: { candidate_id: string }) => words)),
    ).not.toMatch(/\p{N}/u);
  });

  test("answers the same prompt the same", async () => {
    const answer = async () => ({
      ...(await complete(asking({ response_format: JSON_SCHEMA }))),
      created: 0,
    });
    expect(await answer()).toEqual(await answer());
  });

  test("answers in prose when no JSON is asked for, and when there is no table", async () => {
    expect(contentOf(await complete(asking()))).toMatch(
      /^Worded offline .* cost that rose and has stayed up, then spend that no tag/,
    );
    expect(contentOf(await complete(asking({}, "Hello?")))).toBe(
      `${OFFLINE_NOTICE} There was nothing to word.`,
    );
  });

  test("counts a token for four bytes, and stops at max_tokens", async () => {
    const whole = await complete(asking({ response_format: JSON_SCHEMA }));
    expect(whole.usage.prompt_tokens).toBe(Math.ceil(Buffer.byteLength(`Rank and word.\n${TABLE}`) / 4));
    expect(whole.usage.completion_tokens).toBe(Math.ceil(Buffer.byteLength(contentOf(whole)) / 4));
    expect(whole.choices[0]?.finish_reason).toBe("stop");

    for (const limit of [{ max_tokens: 20 }, { max_tokens: undefined, max_completion_tokens: 20 }]) {
      const cut = await complete(asking({ response_format: JSON_SCHEMA, ...limit }));
      expect(cut.choices[0]?.finish_reason).toBe("length");
      expect(cut.usage.completion_tokens).toBe(20);
      expect(contentOf(whole).startsWith(contentOf(cut))).toBe(true);
    }
  });

  test("refuses what is not a chat completion, in the shape of an OpenAI error", async () => {
    const elsewhere = await post(asking(), "http://offline.invalid/v1/embeddings");
    expect(elsewhere.status).toBe(404);
    const empty = await post({ model: "offline-analyst", messages: [] });
    expect(empty.status).toBe(400);
    expect(await empty.json()).toMatchObject({ error: { type: "invalid_request_error" } });
  });
});
