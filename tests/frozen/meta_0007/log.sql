BEGIN TRANSACTION;
CREATE TABLE access_key_use (
	access_key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	CONSTRAINT pk_access_key_use PRIMARY KEY (access_key_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('log_0003');
CREATE TABLE encryption_count (
	material_id TEXT NOT NULL, 
	reserved INTEGER NOT NULL, 
	CONSTRAINT pk_encryption_count PRIMARY KEY (material_id), 
	CONSTRAINT ck_encryption_count_reserved CHECK (reserved >= 0)
);
INSERT INTO "encryption_count" VALUES('fc7e61703c58c60e48d9958ba7e6084f704d1eb3ad0715fb27549b2bd2a390ec',1);
INSERT INTO "encryption_count" VALUES('e32b15a89f983d3185df186e054ce4ee275858635364abde8790567118d46f22',1);
INSERT INTO "encryption_count" VALUES('b6d2c734b90a37380ebface4abe281ab7c954a5cd40ee5575795c523c1dce5db',1);
INSERT INTO "encryption_count" VALUES('212a64b88871117432c6437064029f29185989418255c06cf4b86160f574b7a8',1);
CREATE TABLE last_use (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	operation TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	CONSTRAINT pk_last_use PRIMARY KEY (key_id, region), 
	CONSTRAINT ck_last_use_operation CHECK (operation IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac', 'Encapsulate', 'Decapsulate'))
);
INSERT INTO "last_use" VALUES('4fff5e69-4752-46f8-b05d-9a175606b9c2','eu-central-1','Encrypt',1796008048834809,'4a6894ab-ecfd-40aa-a560-1c504669db69');
INSERT INTO "last_use" VALUES('36e2accc-5ed9-46ea-98fa-445f6db268f4','eu-central-1','Encrypt',1796008054373495,'1f523a2d-29f4-4314-aba7-c7e307eeff6d');
INSERT INTO "last_use" VALUES('mrk-4e44c7a48d1d4a7492f7ea7df89b38e9','eu-central-1','Encrypt',1796008062271519,'06d79e69-a533-48bb-a348-17da2f2b6719');
CREATE TABLE sweeper (
	only INTEGER NOT NULL, 
	holder TEXT NOT NULL, 
	until INTEGER NOT NULL, 
	CONSTRAINT pk_sweeper PRIMARY KEY (only), 
	CONSTRAINT ck_sweeper_only CHECK (only = 1)
);
CREATE TABLE use_tracking (
	only INTEGER NOT NULL, 
	since INTEGER NOT NULL, 
	CONSTRAINT pk_use_tracking PRIMARY KEY (only), 
	CONSTRAINT ck_use_tracking_only CHECK (only = 1)
);
INSERT INTO "use_tracking" VALUES(1,1796008042546969);
COMMIT;
