/*
 * Decodes the model in the page and shows it. The payload's parts are described in payload.py.
 */
import { $ } from "./canvas.js";
import { showImagePage } from "./image_page.js";
import { decoded } from "./network.js";
import { showPlanePage } from "./plane_page.js";

const payload = JSON.parse($("model").textContent, (_, value) =>
  typeof value?.base64 === "string" ? decoded(value.base64) : value,
);
(payload.image ? showImagePage : showPlanePage)(payload);
