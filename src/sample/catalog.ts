// The five sample tenants as data: who they are, what they run in which cloud, and what is wrong with their bills.

/** The providers that the sample tenants are billed by. */
export type ProviderKey = "aws" | "microsoft" | "google";

/** How a provider writes itself, and its habits of writing null and time, which real exports show. */
export type Provider = {
  name: string;
  publisher: string;
  issuer: string;
  billingAccountId: string;
  nothing: "" | "NULL";
  time: (iso: string) => string;
};

/** How each provider writes itself in an export. */
export const PROVIDERS: Record<ProviderKey, Provider> = {
  aws: {
    name: "AWS",
    publisher: "Amazon Web Services, Inc.",
    issuer: "Amazon Web Services, Inc.",
    billingAccountId: "418290037715",
    nothing: "NULL",
    time: (iso) => iso.replace("T", " ").replace("Z", ""),
  },
  microsoft: {
    name: "Microsoft",
    publisher: "Microsoft",
    issuer: "Microsoft",
    billingAccountId: "/providers/Microsoft.Billing/billingAccounts/7702184",
    nothing: "",
    time: (iso) => iso,
  },
  google: {
    name: "Google Cloud",
    publisher: "Google",
    issuer: "Google Cloud EMEA Limited",
    billingAccountId: "01C4D7-9A20F3-7B61EE",
    nothing: "",
    time: (iso) => iso.replace("Z", "+00:00"),
  },
};

/** `listPrice` is per `unit`; `discount` is what the contract takes off; `noise` is the daily standard deviation. */
export type Service = {
  provider: ProviderKey;
  name: string;
  category: string;
  code: string;
  resourceType: string;
  meter: string;
  unit: string;
  listPrice: number;
  discount: number;
  noise: number;
  weekend: number;
};

function service(
  provider: ProviderKey,
  [name, category, code, resourceType]: [string, string, string, string],
  [meter, unit, listPrice, discount]: [string, string, number, number],
  [noise, weekend]: [number, number],
): Service {
  return { provider, name, category, code, resourceType, meter, unit, listPrice, discount, noise, weekend };
}

/** The services in the bills, with their FOCUS categories, units and list prices. */
export const SERVICES = {
  ec2: service(
    "aws",
    ["Amazon Elastic Compute Cloud", "Compute", "ec2", "instance"],
    ["$0.192 per On Demand Linux m6i.xlarge Instance Hour", "Hours", 0.192, 0.06],
    [0.04, 0.82],
  ),
  rds: service(
    "aws",
    ["Amazon Relational Database Service", "Databases", "rds", "db"],
    ["$0.48 per RDS db.r6g.xlarge Multi-AZ instance hour running PostgreSQL", "Hours", 0.48, 0.06],
    [0.03, 0.97],
  ),
  s3: service(
    "aws",
    ["Amazon Simple Storage Service", "Storage", "s3", "bucket"],
    ["$0.023 per GB - first 50 TB / month of storage used", "GB-Months", 0.023, 0],
    [0.02, 1],
  ),
  elb: service(
    "aws",
    ["Elastic Load Balancing", "Networking", "elasticloadbalancing", "loadbalancer"],
    ["$0.008 per used Application load balancer capacity unit-hour (or partial hour)", "LCU-Hours", 0.008, 0],
    [0.06, 0.75],
  ),
  cloudfront: service(
    "aws",
    ["Amazon CloudFront", "Networking", "cloudfront", "distribution"],
    ["$0.085 per GB - first 10 TB / month data transfer out", "GB", 0.085, 0.1],
    [0.08, 1.12],
  ),
  lambda: service(
    "aws",
    ["AWS Lambda", "Compute", "lambda", "function"],
    ["$0.0000166667 for every GB-Second used", "Lambda-GB-Second", 0.0000166667, 0],
    [0.11, 0.6],
  ),
  bedrock: service(
    "aws",
    ["Amazon Bedrock", "AI and Machine Learning", "bedrock", "inference-profile"],
    ["$0.000003 per input token", "Tokens", 0.000003, 0],
    [0.13, 0.55],
  ),
  cloudwatch: service(
    "aws",
    ["Amazon CloudWatch", "Management and Governance", "logs", "log-group"],
    ["$0.50 per GB of log data ingested", "GB", 0.5, 0],
    [0.07, 0.8],
  ),
  vm: service(
    "microsoft",
    ["Virtual Machines", "Compute", "Microsoft.Compute/virtualMachines", "Virtual machine"],
    ["Virtual Machines Dsv5 Series - D4s v5", "1 Hour", 0.23, 0.05],
    [0.04, 0.8],
  ),
  azuresql: service(
    "microsoft",
    ["Azure SQL Database", "Databases", "Microsoft.Sql/servers/databases", "SQL database"],
    ["SQL Database Single/Elastic Pool General Purpose - vCore", "1 Hour", 0.2535, 0.05],
    [0.03, 0.96],
  ),
  blob: service(
    "microsoft",
    ["Storage Accounts", "Storage", "Microsoft.Storage/storageAccounts", "Storage account"],
    ["Tiered Block Blob - Hot LRS Data Stored", "1 GB/Month", 0.0208, 0],
    [0.02, 1],
  ),
  openai: service(
    "microsoft",
    [
      "Azure OpenAI Service",
      "AI and Machine Learning",
      "Microsoft.CognitiveServices/accounts",
      "Azure OpenAI",
    ],
    ["Azure OpenAI input tokens, global", "1K", 0.0025, 0],
    [0.12, 0.5],
  ),
  monitor: service(
    "microsoft",
    ["Azure Monitor", "Management and Governance", "Microsoft.Insights/components", "Application Insights"],
    ["Log Analytics - Analytics Logs Data Ingestion", "1 GB", 2.3, 0.05],
    [0.07, 0.78],
  ),
  gce: service(
    "google",
    ["Compute Engine", "Compute", "compute", "instance"],
    ["N2 Instance Core running in EMEA", "hour", 0.0397, 0.08],
    [0.04, 0.85],
  ),
  bigquery: service(
    "google",
    ["BigQuery", "Analytics", "bigquery", "dataset"],
    ["Analysis, per tebibyte", "tebibyte", 6.25, 0],
    [0.14, 0.45],
  ),
  gcs: service(
    "google",
    ["Cloud Storage", "Storage", "storage", "bucket"],
    ["Standard Storage Europe Multi-region", "gibibyte month", 0.026, 0],
    [0.02, 1],
  ),
  vertex: service(
    "google",
    ["Vertex AI", "AI and Machine Learning", "aiplatform", "endpoint"],
    ["Generative AI input characters", "count", 0.00000125, 0],
    [0.12, 0.6],
  ),
} as const satisfies Record<string, Service>;

/** FOCUS RegionName by RegionId. */
export const REGION_NAMES: Record<string, string> = {
  "us-east-1": "US East (N. Virginia)",
  "us-west-2": "US West (Oregon)",
  "eu-west-1": "EU (Ireland)",
  "eu-central-1": "EU (Frankfurt)",
  "ap-southeast-1": "Asia Pacific (Singapore)",
  eastus2: "East US 2",
  westeurope: "West Europe",
  germanywestcentral: "Germany West Central",
  "us-central1": "Iowa",
  "europe-west3": "Frankfurt",
};

/**
 * One series of a bill: a service in a region for a sub-account, spread over resources. `daily` is its cost on a working
 * day at the start; `growth` is per day; `committed` of its resources are covered by a commitment discount. A spike is
 * one day at `times` the usual cost, a shift a level of `times` that began `daysAgo` and goes on.
 */
export type Workload = {
  account: string;
  service: keyof typeof SERVICES;
  region: string;
  resources: number;
  daily: number;
  growth: number;
  committed: number;
  spikes: { daysAgo: number; times: number }[];
  shift?: { daysAgo: number; times: number };
};

/** The tags that a tenant's resources should carry. */
export const TAG_KEYS = ["environment", "owner", "cost_center"] as const;

/**
 * A tenant: how it is run here, and its bill. `tagGaps` is the chance that a resource lacks a tag; support and credit are
 * monthly, in the currency of the bill; the budget for models is in USD.
 */
export type Profile = {
  name: string;
  tier: "HIGH_VALUE" | "ACTIVE" | "DORMANT";
  timeZone: string;
  monthlyBudgetUsd: string;
  currency: string;
  seed: number;
  gzip: boolean;
  tagGaps: Record<(typeof TAG_KEYS)[number], number>;
  accounts: Record<string, { id: string; environment: string; team: string }>;
  workloads: Workload[];
  supportMonthly: number;
  creditMonthly: number;
};

function workload(
  account: string,
  service: keyof typeof SERVICES,
  region: string,
  [resources, daily, growthPercent]: [number, number, number],
  planted: Partial<Pick<Workload, "committed" | "spikes" | "shift">> = {},
): Workload {
  return {
    account,
    service,
    region,
    resources,
    daily,
    growth: growthPercent / 100,
    committed: 0,
    spikes: [],
    ...planted,
  };
}

/** The five sample tenants, and what is planted in the bill of each. */
export const PROFILES: readonly Profile[] = [
  {
    name: "Larkspur Robotics",
    tier: "HIGH_VALUE",
    timeZone: "America/New_York",
    monthlyBudgetUsd: "50",
    currency: "USD",
    seed: 1101,
    gzip: true,
    tagGaps: { environment: 0.04, owner: 0.1, cost_center: 0.2 },
    accounts: {
      "larkspur-production": { id: "503817264490", environment: "prod", team: "platform" },
      "larkspur-staging": { id: "503817264491", environment: "staging", team: "platform" },
      "larkspur-data": { id: "larkspur-data-4471", environment: "prod", team: "data" },
      "larkspur-ml": { id: "503817264493", environment: "prod", team: "perception" },
    },
    workloads: [
      workload("larkspur-production", "ec2", "us-east-1", [9, 820, 0.1], { committed: 3 }),
      workload("larkspur-production", "ec2", "us-west-2", [6, 390, 0.05]),
      workload("larkspur-production", "rds", "us-east-1", [5, 510, 0.05]),
      workload("larkspur-production", "s3", "us-east-1", [5, 160, 0.15]),
      workload("larkspur-production", "elb", "us-east-1", [3, 45, 0.05]),
      workload("larkspur-production", "cloudfront", "us-east-1", [2, 120, 0.1], {
        spikes: [{ daysAgo: 11, times: 4.5 }],
      }),
      workload("larkspur-production", "lambda", "us-east-1", [4, 60, 0.1]),
      workload("larkspur-production", "cloudwatch", "us-east-1", [2, 70, 0.05], {
        spikes: [{ daysAgo: 3, times: 6 }],
      }),
      workload("larkspur-staging", "ec2", "us-east-1", [4, 130, 0]),
      workload("larkspur-staging", "rds", "us-east-1", [2, 75, 0]),
      workload("larkspur-ml", "bedrock", "us-east-1", [3, 140, 0.2], { shift: { daysAgo: 9, times: 2.4 } }),
      workload("larkspur-ml", "ec2", "us-west-2", [3, 340, 0.1], { spikes: [{ daysAgo: 26, times: 3.5 }] }),
      workload("larkspur-data", "bigquery", "us-central1", [3, 260, 0.1]),
      workload("larkspur-data", "gcs", "us-central1", [3, 85, 0.2]),
    ],
    supportMonthly: 3200,
    creditMonthly: 1500,
  },
  {
    name: "Alderway Health",
    tier: "HIGH_VALUE",
    timeZone: "Europe/London",
    monthlyBudgetUsd: "30",
    currency: "USD",
    seed: 2203,
    gzip: false,
    tagGaps: { environment: 0.15, owner: 0.35, cost_center: 0.3 },
    accounts: {
      "alderway-clinical": {
        id: "5b0e7a11-64f2-4c1d-9d0e-1f7c2a3b9001",
        environment: "prod",
        team: "clinical",
      },
      "alderway-research": {
        id: "5b0e7a11-64f2-4c1d-9d0e-1f7c2a3b9002",
        environment: "prod",
        team: "research",
      },
      "alderway-test": { id: "5b0e7a11-64f2-4c1d-9d0e-1f7c2a3b9003", environment: "test", team: "quality" },
      "alderway-archive": { id: "771904426318", environment: "prod", team: "records" },
    },
    workloads: [
      workload("alderway-clinical", "vm", "westeurope", [8, 420, 0.05], { committed: 3 }),
      workload("alderway-clinical", "azuresql", "westeurope", [5, 330, 0.05]),
      workload("alderway-clinical", "blob", "westeurope", [4, 95, 0.1]),
      workload("alderway-clinical", "monitor", "westeurope", [3, 85, 0.05], {
        spikes: [{ daysAgo: 5, times: 4 }],
      }),
      workload("alderway-clinical", "vm", "eastus2", [4, 150, 0]),
      workload("alderway-research", "openai", "eastus2", [3, 170, 0.2]),
      workload("alderway-research", "vm", "eastus2", [5, 240, 0], { shift: { daysAgo: 13, times: 1.9 } }),
      workload("alderway-research", "blob", "eastus2", [2, 40, 0.1]),
      workload("alderway-test", "vm", "westeurope", [5, 110, 0], { spikes: [{ daysAgo: 19, times: 5 }] }),
      workload("alderway-test", "azuresql", "westeurope", [2, 60, 0]),
      workload("alderway-archive", "s3", "eu-west-1", [4, 120, 0.1]),
      workload("alderway-archive", "cloudwatch", "eu-west-1", [2, 22, 0]),
    ],
    supportMonthly: 1000,
    creditMonthly: 0,
  },
  {
    name: "Pinecrest Freight",
    tier: "ACTIVE",
    timeZone: "Asia/Singapore",
    monthlyBudgetUsd: "10",
    currency: "USD",
    seed: 3307,
    gzip: false,
    tagGaps: { environment: 0.2, owner: 0.5, cost_center: 0.6 },
    accounts: {
      "pinecrest-tracking": { id: "290551783042", environment: "prod", team: "tracking" },
      "pinecrest-backoffice": { id: "290551783043", environment: "prod", team: "finance-it" },
      "pinecrest-dev": { id: "290551783044", environment: "dev", team: "tracking" },
    },
    workloads: [
      workload("pinecrest-tracking", "ec2", "ap-southeast-1", [7, 210, 0.1]),
      workload("pinecrest-tracking", "rds", "ap-southeast-1", [3, 120, 0.05]),
      workload("pinecrest-tracking", "elb", "ap-southeast-1", [3, 26, 0.1]),
      workload("pinecrest-tracking", "lambda", "ap-southeast-1", [5, 48, 0.1], {
        spikes: [{ daysAgo: 2, times: 5 }],
      }),
      workload("pinecrest-tracking", "s3", "ap-southeast-1", [4, 42, 0.2]),
      workload("pinecrest-tracking", "cloudwatch", "ap-southeast-1", [3, 38, 0.05]),
      workload("pinecrest-backoffice", "ec2", "us-east-1", [6, 130, 0], {
        spikes: [{ daysAgo: 30, times: 3.6 }],
      }),
      workload("pinecrest-backoffice", "rds", "us-east-1", [2, 55, 0]),
      workload("pinecrest-backoffice", "s3", "us-east-1", [3, 18, 0.05]),
      workload("pinecrest-dev", "ec2", "ap-southeast-1", [6, 65, 0]),
      workload("pinecrest-dev", "bedrock", "us-east-1", [2, 34, 0.1]),
    ],
    supportMonthly: 100,
    creditMonthly: 250,
  },
  {
    name: "Zero Budget GmbH",
    tier: "ACTIVE",
    timeZone: "Europe/Berlin",
    monthlyBudgetUsd: "0",
    currency: "EUR",
    seed: 4409,
    gzip: false,
    tagGaps: { environment: 0.3, owner: 0.3, cost_center: 1 },
    accounts: {
      "zb-shop": { id: "zb-shop-880213", environment: "prod", team: "shop" },
      "zb-shop-test": { id: "zb-shop-test-880214", environment: "test", team: "shop" },
      "zb-office": { id: "0c9d2f5e-7711-4e2a-8a3f-6b8e55d1a004", environment: "prod", team: "office" },
    },
    workloads: [
      workload("zb-shop", "gce", "europe-west3", [8, 92, 0.1]),
      workload("zb-shop", "bigquery", "europe-west3", [4, 58, 0.1], { spikes: [{ daysAgo: 6, times: 7 }] }),
      workload("zb-shop", "gcs", "europe-west3", [5, 24, 0.1]),
      workload("zb-shop", "vertex", "europe-west3", [3, 31, 0.1], { shift: { daysAgo: 7, times: 2.6 } }),
      workload("zb-shop-test", "gce", "europe-west3", [6, 28, 0]),
      workload("zb-shop-test", "gcs", "europe-west3", [3, 6, 0]),
      workload("zb-office", "vm", "germanywestcentral", [7, 66, 0]),
      workload("zb-office", "azuresql", "germanywestcentral", [3, 30, 0]),
      workload("zb-office", "blob", "germanywestcentral", [4, 12, 0.1]),
    ],
    supportMonthly: 29,
    creditMonthly: 0,
  },
  {
    name: "Tidewater Books",
    tier: "DORMANT",
    timeZone: "America/Los_Angeles",
    monthlyBudgetUsd: "5",
    currency: "USD",
    seed: 5501,
    gzip: false,
    tagGaps: { environment: 0, owner: 0, cost_center: 0 },
    accounts: {
      "tidewater-web": { id: "664120985537", environment: "prod", team: "web" },
      "tidewater-lab": { id: "664120985538", environment: "dev", team: "web" },
    },
    workloads: [
      workload("tidewater-web", "ec2", "us-west-2", [10, 38, 0]),
      workload("tidewater-web", "rds", "us-west-2", [4, 26, 0]),
      workload("tidewater-web", "s3", "us-west-2", [8, 9, 0.05]),
      workload("tidewater-web", "cloudfront", "us-east-1", [4, 14, 0]),
      workload("tidewater-web", "elb", "us-west-2", [4, 6, 0]),
      workload("tidewater-web", "cloudwatch", "us-west-2", [4, 5, 0]),
      workload("tidewater-lab", "ec2", "us-west-2", [6, 9, 0]),
    ],
    supportMonthly: 29,
    creditMonthly: 0,
  },
];
