/* DeepSeek's price list, in dollars per million tokens, as the text of a price file. Sources: the service's pricing pages of
 * April to October 2026 as public mirrors kept them. Holidays: the State Council's list for 2026, days that fall on
 * working days. Peak hours are 01:00 to 04:00 and 06:00 to 10:00 UTC. The prices of other vendors' models are their list
 * prices without discounts for cached input. */
#include "serve/prices.h"

const char prices_official[] =
    "{\n"
    "  \"holidays\": [\"2026-09-25\", \"2026-10-01\", \"2026-10-02\", \"2026-10-05\", \"2026-10-06\", \"2026-10-07\"],\n"
    "  \"models\": [\n"
    "    {\"names\": [\"deepseek-v4-pro\", \"*pro*\"], \"prices\": [\n"
    "      {\"from\": \"2026-04-24\", \"hit\": 0.145, \"miss\": 1.74, \"output\": 3.48},\n"
    "      {\"from\": \"2026-04-26T12:15Z\", \"hit\": 0.003625, \"miss\": 0.435, \"output\": 0.87},\n"
    "      {\"from\": \"2026-08-16T16:00Z\", \"hit\": 0.022, \"miss\": 0.66, \"output\": 1.98,\n"
    "       \"peak\": {\"hit\": 0.044, \"miss\": 1.32, \"output\": 3.96}, \"peak_hours\": [[1, 4], [6, 10]]}]},\n"
    "    {\"names\": [\"deepseek-flash\"], \"prices\": [\n"
    "      {\"from\": \"2026-09-10T04:00Z\", \"hit\": 0.003, \"miss\": 0.15, \"output\": 0.60,\n"
    "       \"peak\": {\"hit\": 0.006, \"miss\": 0.30, \"output\": 1.20}, \"peak_hours\": [[1, 4], [6, 10]]}]},\n"
    "    {\"names\": [\"deepseek-v4-flash\", \"*\"], \"prices\": [\n"
    "      {\"from\": \"2026-04-24\", \"hit\": 0.028, \"miss\": 0.14, \"output\": 0.28},\n"
    "      {\"from\": \"2026-04-26T12:15Z\", \"hit\": 0.0028, \"miss\": 0.14, \"output\": 0.28},\n"
    "      {\"from\": \"2026-08-16T16:00Z\", \"hit\": 0.007, \"miss\": 0.22, \"output\": 0.66,\n"
    "       \"peak\": {\"hit\": 0.014, \"miss\": 0.44, \"output\": 1.32}, \"peak_hours\": [[1, 4], [6, 10]]},\n"
    "      {\"from\": \"2026-09-10T04:00Z\", \"hit\": 0.003, \"miss\": 0.15, \"output\": 0.60,\n"
    "       \"peak\": {\"hit\": 0.006, \"miss\": 0.30, \"output\": 1.20}, \"peak_hours\": [[1, 4], [6, 10]]}]}\n"
    "  ],\n"
    "  \"compare\": [\n"
    "    {\"name\": \"DeepSeek V4-Flash\", \"model\": \"deepseek-v4-flash\"},\n"
    "    {\"name\": \"DeepSeek V4-Pro\", \"model\": \"deepseek-v4-pro\"},\n"
    "    {\"name\": \"GPT-5.4\", \"hit\": 2.50, \"miss\": 2.50, \"output\": 15.00},\n"
    "    {\"name\": \"Claude Opus 4.7\", \"hit\": 5.00, \"miss\": 5.00, \"output\": 25.00}\n"
    "  ]\n"
    "}\n";
